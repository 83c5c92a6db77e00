"""Formats that block types hold bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.formats.ggml import decode
from tailorbird.formats.ggml.exact import exact_blocks, exact_type, nearest_exact, without_waste

HELD: list[tuple[Any, str]] = [
    ((4, 512, 32, "none", "fp16"), "Q4_0"),
    ((4, 512, 128, "none", "fp16"), "Q4_0"),
    ((3, 512, 32, "integer", "fp16"), "Q4_0"),
    ((4, 512, 64, "integer", "fp16"), "Q5_0"),
    ((5, 512, 32, "none", "fp16"), "Q5_0"),
    ((6, 512, 64, "integer", "fp16"), "Q8_0"),
    ((8, 512, 32, "none", "fp16"), "Q8_0"),
    ((1, 512, 128, "none", "fp16"), "Q1_0"),
    ((1, 512, 128, "integer", "fp16"), "Q1_0"),
    ((1, 512, 32, "none", "fp16"), "Q4_0"),
    ((2, 512, 256, "none", "fp16"), "TQ2_0"),
    ((2, 512, 64, "none", "fp16"), "Q4_0"),
    ((4, 512, 32, "float", "fp16"), "Q4_1"),
    ((2, 512, 64, "float", "fp16"), "Q4_1"),
    ((5, 512, 32, "float", "fp16"), "Q5_1"),
]


@pytest.mark.parametrize(("form", "name"), HELD)
def test_held_bit_for_bit(form: Any, name: str) -> None:
    spec = PlaneSpec.uniform(*form)
    weight = torch.randn(24, spec.cols, generator=torch.Generator().manual_seed(4))
    planes = sweep(weight, spec, minmax).pack()
    kind = exact_type(spec)
    assert kind is not None and kind.name == name
    assert torch.equal(decode(exact_blocks(planes, kind), kind), planes.dequantize())


def test_mixed_widths_share_a_type() -> None:
    spec = PlaneSpec((1, 4, 2, 3) * 4, 32, "none", "fp16")
    planes = sweep(torch.randn(8, 512, generator=torch.Generator().manual_seed(5)), spec, minmax).pack()
    kind = exact_type(spec)
    assert kind is not None and kind.name == "Q4_0"
    assert torch.equal(decode(exact_blocks(planes, kind), kind), planes.dequantize())


@pytest.mark.parametrize(
    "form",
    [
        (4, 512, 64, "none", "u8"),
        (4, 512, 16, "none", "fp16"),
        (8, 512, 32, "integer", "fp16"),
        (6, 512, 32, "float", "fp16"),
    ],
)
def test_not_held(form: Any) -> None:
    spec = PlaneSpec.uniform(*form)
    assert exact_type(spec) is None
    near = nearest_exact(spec)
    assert exact_type(near) is not None and max(near.bits) >= min(max(spec.bits), 8)
    assert nearest_exact(near) == near


@pytest.mark.parametrize(
    ("form", "bits", "group", "name"),
    [
        ((1, 512, 64, "integer", "u8"), 1, 128, "Q1_0"),
        ((2, 640, 64, "none", "fp16"), 4, 128, "Q4_0"),
        ((3, 640, 32, "integer", "fp16"), 4, 64, "Q4_0"),
        ((3, 96, 32, "none", "fp16"), 4, 32, "Q4_0"),
        ((4, 512, 64, "integer", "fp16"), 4, 32, "Q4_0"),
        ((6, 512, 32, "none", "fp16"), 8, 32, "Q8_0"),
    ],
)
def test_a_plan_wastes_no_bits_of_a_type(form: Any, bits: int, group: int, name: str) -> None:
    spec = without_waste(PlaneSpec.uniform(*form))
    kind = exact_type(spec)
    assert kind is not None and (spec.bits[0], spec.group_size, kind.name) == (bits, group, name)
    assert without_waste(spec) == spec


def test_what_wastes_nothing_stays() -> None:
    for form in ((4, 512, 128, "none", "fp16"), (2, 512, 256, "none", "fp16"), (5, 512, 32, "float", "fp16")):
        spec = PlaneSpec.uniform(*form)
        assert without_waste(spec) == spec
    mixed = PlaneSpec((1, 2, 2, 2, 2), 128, "none", "fp16")
    assert exact_type(mixed) is not None and max(without_waste(mixed).bits) == min(without_waste(mixed).bits) == 4
    assert without_waste(PlaneSpec.uniform(4, 80, 16, "none", "fp16")).group_size == 16


def test_rows_without_blocks_stay() -> None:
    spec = PlaneSpec.uniform(4, 80, 16, "none", "fp16")
    assert nearest_exact(spec) == spec
    assert exact_type(PlaneSpec.uniform(2, 64, 64, "none", "fp16")) is not None
    assert exact_type(PlaneSpec((4,) * 8, 64, "none", "fp16", column_order=True)) is None
