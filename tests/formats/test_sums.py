"""Sums of planes against the sum of their terms, with and without kernels, and read from hostile plans."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import BitPlanes, PlaneSpec, PlaneSum, SumSpec, Term, spec_from_json
from tailorbird.formats.grid import Grid
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.native import available


@st.composite
def specs(draw: st.DrawFn) -> SumSpec:
    """One to four terms, most of one bit, some of which leave groups out."""
    group, count, terms = draw(st.integers(1, 19)), draw(st.integers(1, 5)), []
    for _ in range(draw(st.integers(1, 4))):
        over = draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
        bits = draw(st.tuples(*[st.sampled_from([1, 1, 1, 2, 3])] * sum(over)))
        offset, scale = draw(st.sampled_from(["none", "integer", "float"])), draw(st.sampled_from(["fp16", "u8"]))
        terms.append(Term(PlaneSpec(bits, group, offset, scale), tuple(over)))
    return SumSpec(tuple(terms), draw(st.booleans()))


def packed(rows: int, spec: SumSpec, seed: int) -> PlaneSum:
    generator, terms = torch.Generator().manual_seed(seed), []
    for term in spec.terms:
        own = term.spec
        tops = torch.tensor(own.bits).repeat_interleave(own.group_size).exp2()
        codes = (torch.rand(rows, own.cols, generator=generator) * tops).floor().to(torch.uint8)
        scale = torch.rand(rows, len(own.bits), generator=generator) + 1e-3
        offset = -scale * torch.rand(rows, len(own.bits), generator=generator) * 2 ** torch.tensor(own.bits)
        terms.append(BitPlanes.pack(codes, Grid.store(scale, offset, own), own))
    order = torch.randperm(spec.cols, generator=generator).to(torch.int32)
    return PlaneSum.pack(terms, spec, order)


def dense(weight: PlaneSum) -> torch.Tensor:
    """The sum of the terms, added up group by group."""
    spec, size = weight.spec, weight.spec.group_size
    out = torch.zeros(weight.rows, spec.cols)
    for term, planes in zip(spec.terms, weight.terms(), strict=True):
        values = planes.dequantize()
        for k, group in enumerate(term.groups):
            out[:, group * size : (group + 1) * size] += values[:, k * size : (k + 1) * size]
    if spec.column_order:
        out = out[:, weight.arrays["column_order"].long().argsort()]
    return out


@given(st.integers(1, 5), specs(), st.integers(0, 2**31), st.data())
def test_a_sum_is_the_sum_of_its_terms(rows: int, spec: SumSpec, seed: int, data: st.DataObject) -> None:
    weight = packed(rows, spec, seed)
    whole = dense(weight)
    assert weight.shape == (rows, spec.cols) and torch.equal(weight.dequantize(), whole)
    start = data.draw(st.integers(0, rows))
    assert torch.equal(weight.dequantize(start), whole[start:])
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=5)), dtype=torch.int64)
    assert torch.equal(weight.gather(ids), whole[ids])
    x = torch.randn(2, spec.cols, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(weight.matmul(x), x @ whole.T, atol=1e-3)
    order = 4 * spec.cols if spec.column_order else 0
    assert weight.nbytes == spec.plan(rows).nbytes == order + sum(t.spec.plan(rows).nbytes for t in spec.terms)
    again = spec.read(rows, weight.arrays)
    assert all(torch.equal(one, other) for one, other in zip(again.meaning(), weight.meaning(), strict=True))


@given(st.integers(1, 5), specs(), st.integers(0, 2**31))
def test_only_the_rows_asked_for_are_fetched(rows: int, spec: SumSpec, seed: int) -> None:
    weight = packed(rows, spec, seed)

    def fetch(name: str, span: tuple[int, int] | None) -> torch.Tensor:
        assert (span is None) == (name == "column_order" or rows == 1)
        return weight.arrays[name] if span is None else weight.arrays[name][slice(*span)]

    assert torch.equal(spec.part(rows, 0, 1, fetch).dequantize(), weight.dequantize(0, 1))


@given(specs())
def test_plans_round_trip(spec: SumSpec) -> None:
    data = json.loads(json.dumps(spec.to_json()))
    assert spec_from_json(data, spec.cols) == spec
    assert hash(spec) == hash(spec_from_json(data, spec.cols))
    assert spec.affine.cols == spec.cols and spec.label


@pytest.mark.skipif(not available(), reason="there are no native kernels here")
@given(st.integers(1, 20), specs(), st.integers(0, 2**31))
def test_kernels_add_up_the_same(rows: int, spec: SumSpec, seed: int) -> None:
    weight = packed(rows, spec, seed)
    whole, matrix = weight.dequantize(), weight.lay_out(PackedMatrix)
    assert weight.fits(PackedMatrix)
    assert torch.allclose(
        matrix.gather(torch.arange(rows)), whole, rtol=0, atol=1e-6 * max(1.0, float(whole.abs().max()))
    )
    x = torch.randn(3, spec.cols, generator=torch.Generator().manual_seed(seed))
    most = float((x.abs() @ whole.abs().T).norm()) + 1e-6
    assert float((matrix.matmul(x, "fp32") - x @ whole.T).norm()) <= 2e-6 * most * len(spec.terms) ** 2
    back = spec.plan(rows).with_arrays(matrix.arrays())
    assert set(back.arrays) == set(weight.arrays)
    assert all(torch.equal(back.arrays[name], array) for name, array in weight.arrays.items())


def test_free_planes() -> None:
    spec = SumSpec.free((1, 3, 2), 8)
    assert [term.groups for term in spec.terms] == [[0, 1, 2], [1, 2], [1]]
    assert spec.mean_bits == 2 and spec.cols == 24 and spec.group_size == 8
    assert spec.label == "a sum of 1+0.667+0.333 bits, groups of 8, u8 scales"
    two = packed(4, SumSpec.free((2,), 16), 0)
    assert all(len(row.unique()) <= 4 for row in two.dequantize())


BAD: list[Any] = [
    {"terms": []}, {"terms": 3}, {"terms": [3]}, {}, {"terms": [{}]}, {"column_order": True},
    {"terms": [{"bits": 1, "group_size": 8}] * 9},
    {"terms": [{"bits": 1, "group_size": 8}], "column_order": 1},
    {"terms": [{"bits": 1, "group_size": 8}], "more": 1},
    {"terms": [{"bits": 1, "group_size": 8}, {"bits": 1, "group_size": 4}]},
    {"terms": [{"bits": 1, "group_size": 8, "column_order": True}]},
    {"terms": [{"bits": 1, "group_size": 8, "over": "01"}]},
    {"terms": [{"bits": 1, "group_size": 8, "over": "000"}]},
    {"terms": [{"bits": 1, "group_size": 8, "over": "0x1"}]},
    {"terms": [{"bits": 1, "group_size": 8, "over": [0, 0, 1]}]},
    {"terms": [{"bits": 1, "group_size": 8.0, "over": "001"}]},
    {"terms": [{"bits": 1, "group_size": 5, "over": "001"}]},
    {"terms": [{"bits": "11", "group_size": 8, "over": "001"}]},
]  # fmt: skip


@pytest.mark.parametrize("data", BAD, ids=str)
def test_what_is_no_sum(data: Any) -> None:
    with pytest.raises(UsageError) as caught:
        spec_from_json({"kind": "sum", **data}, 24)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["product", "", None, 3, [], {}])
def test_unknown_kinds(kind: Any) -> None:
    with pytest.raises(UsageError, match="no kind of format"):
        spec_from_json({"kind": kind, "bits": 1, "group_size": 8}, 24)


def test_damaged_arrays() -> None:
    spec = SumSpec.free((2, 2), 8, column_order=True)
    weight = packed(3, spec, 1)
    for change in (
        {"planes_1": None},
        {"planes_2": weight.arrays["planes_1"]},
        {"scales_0": weight.arrays["row_scales_0"]},
    ):
        arrays = {name: array for name, array in (dict(weight.arrays) | change).items() if array is not None}
        with pytest.raises(ArtifactError):
            spec.read(3, arrays)
    with pytest.raises(ArtifactError, match="permutation"):
        spec.read(3, dict(weight.arrays) | {"column_order": torch.zeros(16, dtype=torch.int32)})
