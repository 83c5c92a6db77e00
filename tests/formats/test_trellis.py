"""Rows that are paths through a trellis: bytes, plans, and what is no such format."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import TrellisSpec, spec_from_json
from tailorbird.formats.grid import scale_values
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.trellis import codes
from tailorbird.kernels.triton_matrix import TritonMatrix

_kernels = run_path(str(Path(__file__).parents[1] / "kernels" / "test_trellis.py"))
packed, specs = _kernels["packed"], _kernels["specs"]


@given(st.integers(1, 5), specs, st.integers(0, 2**31))
def test_every_weight_is_its_code_times_its_scale(rows: int, spec: TrellisSpec, seed: int) -> None:
    weight = packed(rows, spec, seed)
    scale = scale_values(weight.arrays).repeat_interleave(spec.group_size, 1)
    dense = codes(weight.arrays["stream"], spec.halves, spec.group_size).float() * scale
    assert torch.equal(weight.dequantize(), dense)
    ids = torch.tensor([rows - 1, 0])
    assert torch.equal(weight.gather(ids), dense[ids])
    per_row = sum(spec.halves) * spec.group_size // 16 + len(spec.halves) * (1 if spec.scale == "u8" else 2)
    assert weight.nbytes == spec.plan(rows).nbytes == rows * (per_row + 2 * (spec.scale == "u8"))
    again = spec.read(rows, weight.arrays)
    assert all(torch.equal(one, other) for one, other in zip(again.meaning(), weight.meaning(), strict=True))
    assert weight.fits(PackedMatrix) and not weight.fits(TritonMatrix)

    def fetch(name: str, span: tuple[int, int] | None) -> torch.Tensor:
        return weight.arrays[name] if span is None else weight.arrays[name][slice(*span)]

    assert torch.equal(spec.part(rows, 0, 1, fetch).dequantize(), dense[:1])


@given(specs)
def test_plans_round_trip(spec: TrellisSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec.to_json())), spec.cols) == spec
    assert spec.affine.cols == spec.cols and spec.label and spec.mean_bits == sum(spec.halves) / len(spec.halves) / 2


BAD: list[dict[str, Any]] = [
    {"half_bits": 1}, {"half_bits": 9}, {"half_bits": "4"}, {"half_bits": "49"}, {"half_bits": "41"}, {"more": 1},
    {"half_bits": True}, {"half_bits": 4.0}, {"half_bits": "٤٤"}, {"group_size": 7}, {"group_size": 0},
    {"group_size": 8}, {"group_size": "16"}, {"group_size": True}, {"scale": "u4"}, {"scale": None},
    {"tables": 1}, {"tables": None},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_what_is_no_trellis(change: dict[str, Any]) -> None:
    good = TrellisSpec((4, 4), 32).to_json()
    assert spec_from_json(good, 64) == TrellisSpec.uniform(4, 64, 32)
    with pytest.raises(UsageError) as caught:
        spec_from_json(good | change, 64)
    assert caught.value.hint
    with pytest.raises(UsageError):
        spec_from_json({key: good[key] for key in good if key != "scale"}, 64)
    with pytest.raises(UsageError):
        TrellisSpec.uniform(4, 64, 48)


def test_damaged_arrays() -> None:
    weight = packed(3, TrellisSpec((3, 5), 16), 1)
    stream = weight.arrays["stream"]
    for change in ({"stream": None}, {"stream": stream[:, :-1]}, {"more": stream}, {"scales": stream.float()}):
        arrays = {name: array for name, array in (dict(weight.arrays) | change).items() if array is not None}
        with pytest.raises(ArtifactError):
            weight.spec.read(3, arrays)


def test_the_same_bits_under_another_plan_mean_another_weight() -> None:
    weight = packed(3, TrellisSpec((3, 5), 16), 1)
    other = TrellisSpec((5, 3), 16).read(3, weight.arrays)
    assert not torch.equal(next(weight.meaning()), next(other.meaning()))
