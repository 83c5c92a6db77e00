"""A weight while it is learned: the same numbers as what is stored, and the start's where nothing is learned yet."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.formats.grid import Grid
from tailorbird.tune.learning import begin
from tailorbird.tune.quantizers import Clip, Quantizer, Shift

SPECS = [
    PlaneSpec(bits, 16, offset, scale)  # type: ignore[arg-type]
    for bits in ((3, 3, 3, 3), (1, 4, 2, 8), (1, 1, 1, 1))
    for offset in ("none", "integer", "float")
    for scale in ("u8", "fp16")
]
SPEC = pytest.mark.parametrize("spec", SPECS, ids=str)


def same(one: Grid, other: Grid) -> bool:
    return all(torch.equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def kinds(weight: torch.Tensor, grid: Grid) -> list[Quantizer]:
    return [Shift(weight, grid), Clip(weight, grid, 40.0)]


@SPEC
def test_nothing_learned_is_the_start(layer_of: Any, spec: PlaneSpec) -> None:
    weight = layer_of(64, 12, 10, []).weight
    start = sweep(weight, spec, minmax)
    for quantizer in kinds(weight, start.grid):
        found = quantizer.fitted()
        assert torch.equal(found.codes, start.codes) and same(found.grid, start.grid)


@SPEC
def test_what_is_evaluated_is_what_is_stored(layer_of: Any, spec: PlaneSpec) -> None:
    weight = layer_of(64, 12, 10, [], 1).weight
    generator = torch.Generator().manual_seed(0)
    for quantizer in [
        Shift(weight, sweep(weight, spec, minmax).grid),
        Clip(weight, sweep(weight, spec, minmax).grid, 4.0),
    ]:
        with torch.no_grad():
            for parameter in quantizer.learned:
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
            quantizer.project()
        fitted = quantizer.fitted()
        assert torch.equal(fitted.pack().dequantize(), quantizer.weight().detach())
        assert fitted.grid.spec == spec
        assert all(bool((share >= 0).all() and (share <= 1).all()) for share in quantizer.learned[1:])


@SPEC
def test_every_parameter_is_reached(layer_of: Any, spec: PlaneSpec) -> None:
    weight = layer_of(64, 12, 10, [], 2).weight
    for quantizer in [
        Shift(weight, sweep(weight, spec, minmax).grid),
        Clip(weight, sweep(weight, spec, minmax).grid, 4.0),
    ]:
        (quantizer.weight() - weight).square().sum().backward()
        for parameter in quantizer.learned:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
            # With one range for both signs an end may be the shorter one and matter to nothing.
            assert (parameter.grad.flatten(0, 1).abs().sum(-1) > 0).float().mean() > (
                0.4 if spec.offset == "none" else 0.8
            )


@pytest.mark.parametrize("scale", ["u8", "fp16"])
@pytest.mark.parametrize("bits", [2, 3])
def test_after_a_sweep_the_start_has_its_codes(layer_of: Any, bits: int, scale: Any) -> None:
    layer = layer_of(64, 12, 200, [3])
    from tailorbird.measure.statistics import Stats
    from tailorbird.tune.learning import Learning

    spec = PlaneSpec.uniform(bits, 64, 16, "integer", scale)
    wanted = Learning().fit(layer.weight.clone(), Stats(layer.gram), spec)
    met, grid = begin(layer.weight, Stats(layer.gram), spec, "sweep", 0.01)
    found = Shift(met, grid).fitted()
    assert torch.equal(found.codes, wanted.codes) and same(found.grid, wanted.grid)
    assert not torch.allclose(met, layer.weight)
