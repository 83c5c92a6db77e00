"""Codes that look up levels, against a loop, and NormalFloat against the published table."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import BitPlanes, LevelCodes, LevelSpec, spec_from_json
from tailorbird.formats.grid import Grid
from tailorbird.formats.levels import Table, normal_levels
from tailorbird.kernels.matrix import PackedMatrix

NF4 = [
    -1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1,
]  # fmt: skip


def packed(rows: int, spec: LevelSpec, seed: int) -> tuple[LevelCodes, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**spec.bits, (rows, spec.cols), generator=generator, dtype=torch.uint8)
    scale = torch.rand(rows, spec.groups, generator=generator) + 0.1
    grid = Grid.store(scale, scale, spec.codes)
    levels = torch.randn(2**spec.bits, generator=generator)
    return LevelCodes.pack(BitPlanes.pack(codes, grid, spec.codes), spec, levels), codes


specs = st.builds(
    LevelSpec, st.integers(2, 8), st.integers(1, 4), st.integers(1, 19), st.sampled_from(get_args(Table)),
    st.sampled_from(["fp16", "u8"]),
)  # fmt: skip


@given(st.integers(1, 5), specs, st.integers(0, 2**31))
def test_every_weight_is_its_level_times_its_scale(rows: int, spec: LevelSpec, seed: int) -> None:
    weight, codes = packed(rows, spec, seed)
    scale = weight.arrays["scales"].float()
    if spec.scale == "u8":
        scale = scale * weight.arrays["row_scales"].float()[:, None]
    for row, column in ((0, 0), (rows - 1, spec.cols - 1), (rows // 2, spec.cols // 2)):
        value = weight.levels[int(codes[row, column])] * scale[row, column // spec.group_size]
        assert weight.dequantize()[row, column] == value
    ids = torch.tensor([rows - 1, 0])
    assert torch.equal(weight.gather(ids), weight.dequantize()[ids])
    stored = 4 * 2**spec.bits if spec.table == "stored" else 0
    assert weight.nbytes == spec.plan(rows).nbytes == spec.codes.plan(rows).nbytes + stored
    again = spec.read(rows, weight.arrays)
    assert all(torch.equal(one, other) for one, other in zip(again.meaning(), weight.meaning(), strict=True))
    assert not weight.fits(PackedMatrix)

    def fetch(name: str, span: tuple[int, int] | None) -> torch.Tensor:
        return weight.arrays[name] if span is None else weight.arrays[name][slice(*span)]

    assert torch.equal(spec.part(rows, 0, 1, fetch).dequantize(), weight.dequantize(0, 1))


@given(specs)
def test_plans_round_trip(spec: LevelSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec.to_json())), spec.cols) == spec
    assert spec.affine.cols == spec.cols and spec.label and spec.mean_bits == spec.bits


def test_normal_float() -> None:
    assert normal_levels(4).tolist() == pytest.approx(NF4, abs=1e-6)
    for bits in range(2, 9):
        levels = normal_levels(bits)
        assert len(levels) == 2**bits and (levels.diff() > 0).all()
        assert levels[0] == -1 and levels[-1] == 1 and (levels == 0).any()


BAD: list[dict[str, Any]] = [
    {"bits": 1}, {"bits": 9}, {"bits": "4"}, {"bits": True}, {"group_size": 7}, {"group_size": 0}, {"table": "x"},
    {"group_size": "8"}, {"scale": "u4"}, {"scale": None}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_what_is_no_format_of_levels(change: dict[str, Any]) -> None:
    good = LevelSpec(4, 3, 8).to_json()
    assert spec_from_json(good, 24) == LevelSpec(4, 3, 8)
    with pytest.raises(UsageError) as caught:
        spec_from_json(good | change, 24)
    assert caught.value.hint
    with pytest.raises(UsageError):
        spec_from_json({key: good[key] for key in good if key != "table"}, 24)


def test_damaged_arrays() -> None:
    spec = LevelSpec(3, 2, 8, "stored")
    weight, _ = packed(3, spec, 1)
    for change in ({"levels": None}, {"levels": torch.zeros(4)}, {"more": weight.levels}, {"scales": weight.levels}):
        arrays = {name: array for name, array in (dict(weight.arrays) | change).items() if array is not None}
        with pytest.raises(ArtifactError):
            spec.read(3, arrays)
