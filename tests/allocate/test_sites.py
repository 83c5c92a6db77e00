"""What a solver decides on: formats by part, steps between for large ones, and one choice for parts that agree."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.allocate.finer import finer
from tailorbird.allocate.rules import FREE, Rules
from tailorbird.allocate.sites import Sites, interpolated
from tailorbird.anatomy import Part
from tailorbird.formats import PlaneSpec, Spec


def spec_of(part: Part, bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, part.shape[1], 8)


def size(part: Part, spec: Spec) -> float:
    return spec.plan(part.shape[0]).nbytes


SMALL = [Part(f"b{i}", (8, 64), "mlp", i) for i in range(30)]
LARGE = Part("head", (400, 64), "head")


def test_small_parts_have_whole_bits_and_large_ones_steps_between() -> None:
    sites = Sites.of([*SMALL, LARGE], spec_of, FREE)
    assert [len(options) for options in sites.options] == [8] * 30 + [8 + 7 * 3]
    means = [specs[0].mean_bits for specs in sites.options[-1]]
    assert means == [1 + step / 4 for step in range(29)]
    for (spec,) in sites.options[-1]:
        assert list(spec.bits) == sorted(spec.bits)  # the last groups have more
    table = sites.table(size)
    assert (np.diff(table[-1]) > 0).all()
    assert np.isinf(table[0, 8:]).all() and np.isfinite(table[0, :8]).all()


def test_levels_come_above_eight_bits() -> None:
    def leveled(part: Part, level: int) -> Spec:
        return finer(spec_of(part, min(level, 8)), min(level, 9) - 8)

    sites = Sites.of([*SMALL, LARGE], leveled, FREE, 10)
    assert [len(options) for options in sites.options] == [9] * 30 + [9 + 8 * 3]  # nine and ten are the same here
    assert [specs[0].mean_bits for specs in sites.options[-1]][-5:] == [8, 8.25, 8.5, 8.75, 9]


def test_tied_parts_are_one_choice() -> None:
    sites = Sites.of(SMALL, spec_of, Rules(ties=[("b0", "b1", "b2")]))
    assert len(sites.units) == 28
    assert sites.table(size)[0, 2] == sum(size(part, spec_of(part, 3)) for part in SMALL[:3])
    specs = sites.specs(np.full(28, 4))
    assert set(specs) == {part.name for part in SMALL}
    assert {spec.mean_bits for spec in specs.values()} == {5}


def test_a_runtime_s_formats_come_once() -> None:
    def carried(part: Part, spec: PlaneSpec) -> PlaneSpec:
        return PlaneSpec.uniform(4 if max(spec.bits) <= 4 else 8, part.shape[1], 8)

    rules = Rules(carried)
    sites = Sites.of([*SMALL, LARGE], lambda part, bits: carried(part, spec_of(part, bits)), rules)
    for options in sites.options:
        assert [specs[0].mean_bits for specs in options] == [4, 8]


def test_losses_between_and_beyond_what_was_measured() -> None:
    losses = {1: 8.0, 2: 4.0, 4: 0.3}
    assert interpolated(losses, PlaneSpec((1, 2), 8)) == 6.0
    assert interpolated(losses, PlaneSpec((3,), 8)) == 0.3  # nobody measured three: a runtime gives four
    assert interpolated(losses, PlaneSpec((8,), 8)) == pytest.approx(0.3 * (15 / 255) ** 2)
