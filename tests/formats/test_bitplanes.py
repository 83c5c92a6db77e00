"""The packed weight against its definition, for every bit-width, shape, group and way to store the grid."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.grid import Grid, Units, stored


@st.composite
def specs(draw: st.DrawFn) -> PlaneSpec:
    """Any format of a small row; groups of one bit-width as often as of mixed ones."""
    group, count = draw(st.integers(1, 19)), draw(st.integers(1, 7))
    width = st.integers(1, 8)
    bits = draw(st.one_of(width.map(lambda b: (b,) * count), st.tuples(*[width] * count)))
    return PlaneSpec(
        bits,
        group,
        draw(st.sampled_from(["none", "integer", "float"])),
        draw(st.sampled_from(["fp16", "u8"])),
        draw(st.booleans()),
    )


def packed(rows: int, spec: PlaneSpec, seed: int) -> tuple[BitPlanes, torch.Tensor]:
    """A random weight in this format and its codes, among them the largest of every group."""
    generator = torch.Generator().manual_seed(seed)
    tops = torch.tensor(spec.bits).repeat_interleave(spec.group_size).exp2()
    codes = (torch.rand(rows, spec.cols, generator=generator) * tops).floor()
    codes[0] = tops - 1
    scale = torch.rand(rows, len(spec.bits), generator=generator) + 1e-3
    offset = -scale * torch.rand(rows, len(spec.bits), generator=generator) * 2 ** torch.tensor(spec.bits)
    order = torch.randperm(spec.cols, generator=generator).to(torch.int32)
    codes = codes.to(torch.uint8)
    return BitPlanes.pack(codes, Grid.store(scale, offset, spec), spec, order), codes


def zeros_of(planes: BitPlanes) -> list[list[float]]:
    """Zero points read from their bit string one bit at a time."""
    spec, found = planes.spec, []
    for row in range(planes.rows):
        stream = [(byte >> k) & 1 for byte in planes.arrays["zeros"][row].tolist() for k in range(8)]
        zeros = [0.5] * len(spec.bits)
        at = 0
        for g in sorted(range(len(spec.bits)), key=lambda g: spec.bits[g]):
            if spec.bits[g] > 1:
                zeros[g] = float(sum(bit << k for k, bit in enumerate(stream[at : at + spec.bits[g]])))
                at += spec.bits[g]
        found.append(zeros)
    return found


def defined(planes: BitPlanes, codes: torch.Tensor) -> torch.Tensor:
    """w = code * scale + offset from the stored arrays, in float32."""
    spec, arrays = planes.spec, planes.arrays
    scale = arrays["scales"].float()
    if spec.scale == "u8":
        scale = scale * arrays["row_scales"].float()[:, None]
    if spec.offset == "float":
        offset = arrays["offsets"].float()
        if spec.scale == "u8":
            offset = offset * arrays["row_offsets"].float()[:, None]
    elif spec.offset == "integer":
        offset = -scale * torch.tensor(zeros_of(planes))
    else:
        offset = -scale * torch.tensor([0.5 if b == 1 else 2.0 ** (b - 1) for b in spec.bits])
    group = torch.arange(spec.cols) // spec.group_size
    weight = codes.float() * scale[:, group] + offset[:, group]
    if spec.column_order:
        out = torch.empty_like(weight)
        for stored, column in enumerate(arrays["column_order"].tolist()):
            out[:, column] = weight[:, stored]
        return out
    return weight


def formula(rows: int, spec: PlaneSpec) -> int:
    """Bytes of a packed weight, written down from the documentation of the format."""
    groups, size = len(spec.bits), spec.group_size
    row = sum(b * math.ceil(spec.bits.count(b) * size / 8) for b in range(1, 9))
    row += 2 * groups if spec.scale == "fp16" else groups + 2
    if spec.offset == "integer":
        row += math.ceil(sum(b for b in spec.bits if b > 1) / 8)
    if spec.offset == "float":
        row += 2 * groups if spec.scale == "fp16" else groups + 2
    return rows * row + (4 * groups * size if spec.column_order else 0)


@given(st.integers(1, 6), specs(), st.integers(0, 2**31))
def test_codes_weights_and_bytes(rows: int, spec: PlaneSpec, seed: int) -> None:
    planes, codes = packed(rows, spec, seed)
    assert planes.shape == (rows, spec.cols)
    assert torch.equal(planes.codes(), codes)
    dense, wanted = planes.dequantize(), defined(planes, codes)
    assert dense.dtype == torch.float32 and torch.equal(dense, wanted)
    assert planes.nbytes == BitPlanes.plan(rows, spec).nbytes == formula(rows, spec)
    assert planes.nbytes == sum(a.numel() * a.element_size() for a in planes.arrays.values())
    again = BitPlanes.from_arrays(rows, spec, planes.arrays)
    assert torch.equal(again.dequantize(), dense)


@given(st.integers(1, 6), specs(), st.integers(0, 2**31), st.data())
def test_slices_gather_and_matmul_equal_dense(rows: int, spec: PlaneSpec, seed: int, data: st.DataObject) -> None:
    planes, codes = packed(rows, spec, seed)
    dense = planes.dequantize()
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows + 2))
    assert torch.equal(planes.dequantize(start, stop), dense[start:stop])
    assert torch.equal(planes.codes(start, stop), codes[start:stop])
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=6)), dtype=torch.int64)
    assert torch.equal(planes.gather(ids), dense[ids])
    assert torch.equal(planes.gather(ids[None]), dense[ids][None])
    x = torch.randn(2, 3, spec.cols, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(planes.matmul(x), torch.nn.functional.linear(x, dense))
    half = x[0, 0].bfloat16()
    assert torch.equal(planes.matmul(half), torch.nn.functional.linear(half, dense.bfloat16()))


@given(st.integers(1, 4), specs(), st.integers(0, 2**31))
def test_storing_stored_values_changes_nothing(rows: int, spec: PlaneSpec, seed: int) -> None:
    grid = packed(rows, spec, seed)[0]
    first = Grid(spec, {name: a for name, a in grid.arrays.items() if name not in ("planes", "column_order")})
    scale, offset = first.values()
    units = Units(grid.arrays.get("row_scales", torch.empty(0)), grid.arrays.get("row_offsets", torch.empty(0)))
    again = Grid.store(scale, offset, spec, units)
    assert set(again.arrays) == set(first.arrays)
    assert all(torch.equal(again.arrays[name], first.arrays[name]) for name in first.arrays)


@given(st.integers(1, 4), specs(), st.integers(0, 2**31), st.booleans())
def test_what_is_stored_is_known_without_packing(rows: int, spec: PlaneSpec, seed: int, given: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale, offset = (torch.randn(rows, len(spec.bits), generator=generator) for _ in range(2))
    scale = scale.abs() + 1e-3
    units = Units.of(scale, offset, spec, 0.9) if given else None
    wanted = Grid.store(scale, offset, spec, units).values()
    for one, other in zip(stored(scale, offset, spec, units), wanted, strict=True):
        assert torch.equal(one, other)


@given(specs())
def test_the_largest_scale_of_a_row_stays_within_reach(spec: PlaneSpec) -> None:
    scale = torch.rand(5, len(spec.bits), generator=torch.Generator().manual_seed(3)) + 0.1
    held, _ = Grid.store(scale, -scale, spec).values()
    step = 2**-10 * scale if spec.scale == "fp16" else (0.51 / 255 + 2**-10) * scale.amax(1, keepdim=True)
    assert ((held - scale).abs() <= step).all()


@given(specs())
def test_spec_json_round_trip(spec: PlaneSpec) -> None:
    data = json.loads(json.dumps(spec.to_json()))
    assert PlaneSpec.from_json(data, spec.cols) == spec
    assert spec.mean_bits == sum(spec.bits) / len(spec.bits)
    assert sorted(spec.order) == list(range(len(spec.bits)))
    assert [g for _, groups in spec.runs for g in groups] == spec.order


JSON_BAD: list[Any] = [
    {},
    {"bits": 3},
    {"bits": 3, "group_size": 0},
    {"bits": 3, "group_size": -4},
    {"bits": 3, "group_size": 5},
    {"bits": 3, "group_size": True},
    {"bits": 3, "group_size": 4.0},
    {"bits": 3, "group_size": "4"},
    {"bits": 0, "group_size": 4},
    {"bits": 9, "group_size": 4},
    {"bits": True, "group_size": 4},
    {"bits": 3.0, "group_size": 4},
    {"bits": None, "group_size": 4},
    {"bits": [3, 3], "group_size": 4},
    {"bits": "333", "group_size": 4},
    {"bits": "39", "group_size": 4},
    {"bits": "3²", "group_size": 4},
    {"bits": "30", "group_size": 4},
    {"bits": 3, "group_size": 4, "offset": "half"},
    {"bits": 3, "group_size": 4, "offset": []},
    {"bits": 3, "group_size": 4, "scale": None},
    {"bits": 3, "group_size": 4, "column_order": 1},
    {"bits": 3, "group_size": 4, "colour": "red"},
]


@pytest.mark.parametrize("data", JSON_BAD, ids=json.dumps)
def test_what_the_format_cannot_hold_is_refused(data: Any) -> None:
    with pytest.raises(UsageError) as caught:
        PlaneSpec.from_json(data, 8)
    assert caught.value.hint


def test_uniform_refuses_groups_that_do_not_divide() -> None:
    for size in (0, 3, 16):
        with pytest.raises(UsageError, match="divide"):
            PlaneSpec.uniform(3, 8, size)


@given(st.integers(1, 4), specs(), st.data())
def test_arrays_from_outside_are_checked(rows: int, spec: PlaneSpec, data: st.DataObject) -> None:
    arrays = dict(packed(rows, spec, 0)[0].arrays)
    name = data.draw(st.sampled_from(sorted(arrays)))
    wrong = {
        "missing": {key: a for key, a in arrays.items() if key != name},
        "extra": arrays | {"more": torch.zeros(1)},
        "dtype": arrays | {name: arrays[name].to(torch.int16)},
        "longer": arrays | {name: torch.cat([arrays[name], arrays[name]])},
        "deeper": arrays | {name: arrays[name][None]},
    }
    for kind, bad in wrong.items():
        with pytest.raises(ArtifactError) as caught:
            BitPlanes.from_arrays(rows, spec, bad)
        assert kind == "extra" or name in caught.value.message


def test_a_column_order_must_be_a_permutation() -> None:
    spec = PlaneSpec((2, 2), 4, column_order=True)
    arrays = dict(packed(2, spec, 0)[0].arrays)
    for order in ([0, 1, 2, 3, 4, 5, 6, 6], [1, 2, 3, 4, 5, 6, 7, 8], [-1, 1, 2, 3, 4, 5, 6, 7]):
        with pytest.raises(ArtifactError, match="permutation"):
            BitPlanes.from_arrays(2, spec, arrays | {"column_order": torch.tensor(order, dtype=torch.int32)})


def test_many_rows_are_packed_in_chunks() -> None:
    spec = PlaneSpec((3, 1, 2), 5)
    planes, codes = packed(9001, spec, 4)
    assert torch.equal(planes.codes(), codes)
    assert torch.equal(planes.dequantize(4090, 8200), defined(planes, codes)[4090:8200])
    x = torch.randn(2, 15, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(planes.matmul(x), x @ planes.dequantize().T, atol=1e-5)
    assert planes.nbytes == BitPlanes.plan(9001, spec).nbytes == formula(9001, spec)


@given(st.integers(1, 4), specs(), st.integers(0, 2**31))
def test_no_device_is_taken_for_granted(rows: int, spec: PlaneSpec, seed: int) -> None:
    """The meta device refuses, as any other, to mix with tensors of the CPU."""
    meta = torch.device("meta")
    planes = packed(rows, spec, seed)[0].to(meta)
    assert planes.device == meta
    assert planes.matmul(torch.empty(2, spec.cols, device=meta)).shape == (2, rows)
    assert planes.gather(torch.empty(3, dtype=torch.int64, device=meta)).shape == (3, spec.cols)
    assert planes.dequantize().device == planes.codes().device == meta


def test_a_plan_takes_no_memory() -> None:
    plan = BitPlanes.plan(2**30, PlaneSpec.uniform(3, 4096, 64))
    assert all(array.is_meta for array in plan.arrays.values())
    assert plan.nbytes == formula(2**30, plan.spec)
