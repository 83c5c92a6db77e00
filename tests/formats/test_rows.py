"""Rows in classes: a class map and packed weights beside it mean what each of them means alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec, RowSpec, spec_from_json
from tailorbird.formats.family import groups_in
from tailorbird.formats.rows import FittedRows, RowClasses
from tailorbird.kernels.native import available
from tailorbird.kernels.rows import joined, unpacked
from tailorbird.runtime.weights import native

COLS = 48


def fitted(classes: Tensor, bits: tuple[int, ...], seed: int = 0) -> FittedRows:
    weight = torch.randn(len(classes), COLS, generator=torch.Generator().manual_seed(seed))
    forms = [PlaneSpec.uniform(b, COLS, 16) for b in bits]
    return FittedRows(classes, [sweep(weight[classes == k], form, minmax) for k, form in enumerate(forms)])


@pytest.fixture
def weight() -> RowClasses:
    return fitted(torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 1, 1, 0, 2, 0], dtype=torch.uint8), (1, 4, 6)).pack()


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_map_comes_back(rows: int, count: int, seed: int) -> None:
    classes = torch.randint(count, (rows,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    stored = joined(classes, [{}] * count)["classes"]
    assert stored.numel() == max(1, (count - 1).bit_length()) * -(-rows // 8)
    assert torch.equal(unpacked(stored, count, rows), classes)


def test_every_row_is_its_classs() -> None:
    fits = fitted(torch.tensor([1, 0, 0, 1, 1], dtype=torch.uint8), (2, 5))
    packed = fits.pack()
    whole = packed.dequantize()
    for k, fit in enumerate(fits.fits):
        assert torch.equal(whole[fits.classes == k], fit.pack().dequantize())
    assert all(torch.equal(a, b) for a, b in zip(fits.meaning(), packed.meaning(), strict=True))


def test_classes_of_one_format_are_that_format() -> None:
    weight = torch.randn(20, COLS, generator=torch.Generator().manual_seed(3))
    form = PlaneSpec.uniform(3, COLS, 16)
    classes = (torch.arange(20) % 3).to(torch.uint8)
    packed = FittedRows(classes, [sweep(weight[classes == k], form, minmax) for k in range(3)]).pack()
    alike = sweep(weight, form, minmax).pack()
    assert torch.equal(packed.dequantize(), alike.dequantize())
    assert packed.nbytes == alike.nbytes + 2 * 3


def test_planned_bytes_are_packed_bytes(weight: RowClasses) -> None:
    planned = weight.spec.plan(13)
    assert planned.nbytes == weight.nbytes
    assert {n: (a.shape, a.dtype) for n, a in planned.arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in weight.arrays.items()
    }


def test_lookups_and_products_are_those_of_the_unpacked_weight(weight: RowClasses) -> None:
    whole = weight.dequantize()
    ids = torch.tensor([[12, 0, 5], [5, 1, 7]])
    x = torch.randn(2, 3, COLS, generator=torch.Generator().manual_seed(1))
    assert torch.equal(weight.gather(ids), whole[ids])
    torch.testing.assert_close(weight.matmul(x), x @ whole.T)
    if not available():
        return
    laid = native(weight)
    assert laid is not None and laid.matrix.shape == (13, COLS)
    assert torch.equal(laid.gather(ids), whole[ids])
    torch.testing.assert_close(laid.matmul(x, "fp32"), x @ whole.T, atol=1e-4, rtol=1e-4)
    back = laid.planes()
    assert back.spec == weight.spec and all(torch.equal(a, weight.arrays[n]) for n, a in back.arrays.items())
    with pytest.raises(IndexError):
        laid.gather(torch.tensor([13]))


@pytest.mark.parametrize("span", [(0, 13), (0, 4), (3, 11), (2, 4), (9, 10)], ids=str)
def test_some_rows_are_read_alone(weight: RowClasses, span: tuple[int, int]) -> None:
    def fetch(name: str, rows: tuple[int, int] | None) -> Tensor:
        return weight.arrays[name] if rows is None else weight.arrays[name][slice(*rows)]

    part = weight.spec.part(13, *span, fetch)
    assert part.rows == span[1] - span[0]
    assert torch.equal(part.dequantize(), weight.dequantize()[slice(*span)])


def test_json_round_trip(weight: RowClasses) -> None:
    data = weight.spec.to_json()
    assert spec_from_json(data, COLS) == weight.spec
    assert groups_in(data, COLS) == 3
    assert weight.spec.affine == PlaneSpec.uniform(6, COLS, 16)
    assert "6 bits" in weight.spec.label and weight.spec.mean_bits == pytest.approx((5 * 1 + 4 * 4 + 4 * 6) / 13)


PLANES: dict[str, Any] = PlaneSpec.uniform(3, COLS, 16).to_json()


@pytest.mark.parametrize(
    "classes",
    [
        None,
        [],
        [{"rows": 3} | PLANES],
        [{"rows": 3} | PLANES, {"rows": 0} | PLANES],
        [{"rows": 3} | PLANES, {"rows": True} | PLANES],
        [{"rows": 3} | PLANES, {"rows": -3} | PLANES],
        [{"rows": 3} | PLANES] * 17,
        [{"rows": 3} | PLANES, [3]],
        [{"rows": 3} | PLANES, {"rows": 3, "kind": "rows", "classes": []}],
        [{"rows": 3} | PLANES, {"rows": 3} | PLANES | {"bits": 9}],
    ],
    ids=str,
)
def test_no_format_is_refused(classes: Any) -> None:
    with pytest.raises(UsageError):
        spec_from_json({"kind": "rows", "classes": classes}, COLS)
    with pytest.raises(UsageError):
        spec_from_json({"kind": "rows", "classes": [{"rows": 3} | PLANES] * 2, "more": 1}, COLS)


def test_other_rows_and_damaged_maps_are_refused(weight: RowClasses) -> None:
    with pytest.raises(UsageError, match="13"):
        weight.spec.plan(14)
    assert weight.spec.read(13, weight.arrays).spec == weight.spec
    for name in weight.arrays:
        with pytest.raises(ArtifactError):
            weight.spec.read(13, {n: a for n, a in weight.arrays.items() if n != name})
    damaged = dict(weight.arrays) | {"classes": weight.arrays["classes"] ^ 1}
    with pytest.raises(ArtifactError, match="map"):
        weight.spec.read(13, damaged)
    with pytest.raises(ArtifactError):
        weight.spec.part(13, 0, 5, lambda name, rows: damaged[name] if rows is None else damaged[name][slice(*rows)])


def test_columns_must_agree() -> None:
    with pytest.raises(UsageError):
        RowSpec((3, 4), (PlaneSpec.uniform(3, 48, 16), PlaneSpec.uniform(3, 32, 16)))


def test_a_plan_needs_none_of_torch_s_compiler() -> None:
    """It takes seconds to import, which `tailorbird inspect` would wait for."""
    script = (
        "import sys, torch\n"
        "from tailorbird.formats import PlaneSpec, RowSpec, TrellisSpec\n"
        "plain = PlaneSpec((3, 4), 64)\n"
        "RowSpec((90, 10), (plain, PlaneSpec.uniform(8, 128, 64, scale='fp16'))).plan(100)\n"
        "TrellisSpec.uniform(5, 128, 64).plan(10)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
