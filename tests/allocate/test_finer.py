"""Above eight bits: each level closer than the one before; no other plan where eight bits don't fit."""

from __future__ import annotations

import pytest

from tailorbird.allocate.finer import LEVELS, finer, topped
from tailorbird.allocate.sites import interpolated
from tailorbird.anatomy import Part
from tailorbird.formats import LevelSpec, PlaneSpec, Spec, SumSpec, between, widths

PARTS = [Part("head", (64, 512), "head", None), Part("up", (32, 128), "mlp", 0)]


def spec_of(part: Part, bits: int) -> Spec:
    return finer(PlaneSpec.uniform(min(bits, 8), part.shape[1], 64), bits - 8)


def cost_of(part: Part, spec: Spec) -> int:
    return spec.plan(part.shape[0]).nbytes


def test_what_is_not_planes_of_eight_bits_stays() -> None:
    for spec in (LevelSpec(4, 2, 64), PlaneSpec.uniform(7, 128, 64), PlaneSpec((7, 8), 64)):
        assert finer(spec, 2) == spec
    assert finer(PlaneSpec.uniform(8, 128, 64), 0) == PlaneSpec.uniform(8, 128, 64)


def test_levels_may_change_between_groups() -> None:
    eight, nine, ten = (spec_of(PARTS[1], bits) for bits in (8, 9, 10))
    assert [widths(spec) for spec in (eight, nine, ten)] == [(8, 8), (9, 9), (10, 10)]
    for low, high, bits in ((eight, nine, (8, 9)), (nine, ten, (9, 10)), (eight, ten, (8, 10))):
        mixed = between(low, high, 1)
        assert mixed is not None and widths(mixed) == bits and mixed.mean_bits == sum(bits) / 2
        assert cost_of(PARTS[1], low) < cost_of(PARTS[1], mixed) < cost_of(PARTS[1], high)
    assert between(PlaneSpec.uniform(8, 128, 32), nine, 1) is None
    assert between(eight, SumSpec.free((2, 2), 64), 1) is None


def test_a_bit_more_is_foretold_to_leave_a_quarter() -> None:
    losses = {8: 1.0}
    nine, half = spec_of(PARTS[1], 9), between(spec_of(PARTS[1], 8), spec_of(PARTS[1], 9), 1)
    assert half is not None
    assert interpolated(losses, nine) == pytest.approx(0.25, rel=0.01)
    assert interpolated(losses, half) == pytest.approx(0.625, rel=0.01)


def test_only_what_eight_bits_leave_is_spent() -> None:
    full = sum(cost_of(part, spec_of(part, 8)) for part in PARTS)
    most = sum(cost_of(part, spec_of(part, LEVELS)) for part in PARTS)
    chosen = {part.name: spec_of(part, 5) for part in PARTS}
    assert topped(chosen, PARTS, spec_of, cost_of, full - 1) is chosen
    sizes = []
    for limit in range(full, most + 1, 64):
        found = topped(chosen, PARTS, spec_of, cost_of, limit)
        sizes.append(sum(cost_of(part, found[part.name]) for part in PARTS))
        # A part of a block, or a group of the head with a first scale a row.
        assert limit - 2 * 32 * 128 // 8 - 64 * (64 // 8 + 2) < sizes[-1] <= limit
    assert sizes[0] == full and topped(chosen, PARTS, spec_of, cost_of, most) == {
        part.name: spec_of(part, LEVELS) for part in PARTS
    }
    # A part of the block comes before the head.
    first = topped(chosen, PARTS, spec_of, cost_of, full + cost_of(PARTS[1], spec_of(PARTS[1], 9)))
    assert first["up"] != spec_of(PARTS[1], 8)
