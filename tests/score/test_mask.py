"""OHQ's mask-guided sensitivity (card: oracles 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tailorbird.allocate.ohq import objective
from tailorbird.allocate.rules import FREE
from tailorbird.allocate.sites import Sites, interpolated
from tailorbird.allocate.solve import solve
from tailorbird.anatomy import Model, Part
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.methods.rtn import RTN
from tailorbird.score.losses import formats, measured, sensitivities
from tailorbird.score.mask import mask_rows, omega
from tailorbird.score.patched import patched
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.language import Reference

Open = Callable[[str], Model]


def spec_of(part: Part, bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, part.shape[1], 32)


@pytest.mark.parametrize("family", ["llama", "untied", "gemma3"])
def test_nothing_masked_nothing_lost(opened: Open, windows: Tensor, family: str) -> None:
    model = opened(family)
    found = omega(model, windows[:1], keep=1.0, masks=1)
    assert set(found) == {part.name for part in model.parts}
    assert set(found.values()) == {0.0}


def test_more_masked_more_lost(opened: Open, windows: Tensor) -> None:
    model = opened("untied")
    means = []
    for keep in (0.99, 0.9, 0.5):
        found = omega(model, windows[:1], keep=keep, masks=20)
        assert min(found.values()) >= 0
        means.append(found)
    for name in means[0]:
        assert means[0][name] < means[1][name] < means[2][name]


def test_a_part_without_effect_gets_the_fewest_bits(opened: Open, windows: Tensor) -> None:
    """Its output is multiplied by zero: nothing depends on it."""
    whole = opened("llama")
    layer = "model.layers.1.mlp"
    model = patched(whole, {f"{layer}.down_proj": lambda start, stop: torch.zeros(stop - start, 128)})
    found = omega(model, windows[:1])
    assert found[f"{layer}.up_proj"] == 0.0 and found[f"{layer}.gate_proj"] == 0.0
    assert found["model.layers.0.mlp.up_proj"] > 0
    table = sensitivities(model, Rounding(RTN()), formats(model.parts, spec_of), windows[:1], 0)
    sites = Sites.of(model.parts, spec_of, FREE)
    sizes = sites.table(lambda part, spec: BitPlanes.plan(part.shape[0], spec).nbytes)
    losses = objective(sites.table(lambda part, spec: interpolated(table[part.name], spec)), None)
    least = sizes.min(axis=1).sum()
    specs = sites.specs(solve(losses, sizes[None], [least * 2]))
    assert specs[f"{layer}.up_proj"].mean_bits == 1
    assert max(spec.mean_bits for spec in specs.values()) > 1


def test_rows_of_a_mask_do_not_depend_on_who_asks() -> None:
    part = Part("p", (40_000, 8), "embedding")
    some = torch.tensor([3, 17_000, 39_999])
    assert torch.equal(mask_rows(part, 5, 0.9, some), mask_rows(part, 5, 0.9, torch.arange(40_000))[some])


@pytest.mark.parametrize("family", ["untied", "gemma3"])
def test_sensitivities_rank_parts_as_rounding_them_does(opened: Open, windows: Tensor, family: str) -> None:
    """Masks measure dependence, rounding precision: that one tells of the other has to be seen (card: checks)."""
    model, rounding = opened(family), Rounding(RTN())
    table = sensitivities(model, rounding, formats(model.parts, spec_of), windows[:1], 0)
    reference = Reference.of(model, windows)
    told = torch.tensor([table[part.name][3] for part in model.parts])
    lost = torch.tensor([measured(reference, rounding, {part.name: spec_of(part, 3)}) for part in model.parts])
    ranks = torch.stack([one.argsort().argsort().float() for one in (told, lost)])
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.5
