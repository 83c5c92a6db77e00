"""AutoRound, OmniQuant and SliM-LLM+: the oracles of their algorithms on a small block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.errors import UsageError
from tailorbird.fit.sweep import Fitted
from tailorbird.formats import PlaneSpec
from tailorbird.measure.block import Block
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method
from tailorbird.methods.autoround import AutoRound
from tailorbird.methods.gptq import GPTQ
from tailorbird.methods.omniquant import OmniQuant
from tailorbird.methods.rtn import RTN
from tailorbird.methods.slim_llm import SlimLLM
from tailorbird.methods.slim_llm_plus import SlimLLMPlus
from tailorbird.tune.learn import block_loss
from tailorbird.tune.learning import Learning

KINDS = [AutoRound, OmniQuant, SlimLLMPlus]


def fitted(block: Block, method: Method, bits: int) -> dict[str, Fitted]:
    specs = {
        part.name: method.decide(block.weights[part.name], block.stats[part.name], method.spec(part, bits))
        for part in block.parts
    }
    if isinstance(method, Learning):
        return dict(method.tune(block, specs))
    return {name: method.fit(block.weights[name].clone(), block.stats[name], spec) for name, spec in specs.items()}


def same(one: dict[str, Fitted], other: dict[str, Fitted]) -> bool:
    return all(
        torch.equal(one[name].codes, other[name].codes)
        and all(torch.equal(array, other[name].grid.arrays[key]) for key, array in one[name].grid.arrays.items())
        for name in other
    )


@torch.no_grad()
def lost(block: Block, found: dict[str, Fitted]) -> float:
    weights = {name: one.pack().dequantize() for name, one in found.items()}
    return sum(float(block_loss(block, i, weights)) for i in range(len(block.inputs)))


@pytest.mark.parametrize("scale", ["u8", "fp16"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_without_a_step_it_is_rounding(block_of: Any, bits: int, symmetric: bool, scale: Any) -> None:
    block, common = block_of(), {"group_size": 16, "symmetric": symmetric, "scale": scale}
    rounding = fitted(block, RTN(**common), bits)
    assert same(fitted(block, AutoRound(iterations=0, start="minmax", **common), bits), rounding)
    assert same(fitted(block, OmniQuant(iterations=0, logit=40.0, **common), bits), rounding)


@pytest.mark.parametrize("bits", [2, 3])
def test_logits_that_are_huge_stay(block_of: Any, bits: int) -> None:
    block = block_of()
    assert same(
        fitted(block, OmniQuant(iterations=5, logit=40.0, group_size=16), bits), fitted(block, RTN(group_size=16), bits)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_of_a_sweep_is_never_left_for_worse(block_of: Any, kind: type[Learning]) -> None:
    for seed in (0, 1):
        block = block_of(seed)
        start = kind(iterations=0, start="sweep", group_size=16)
        learned = kind(iterations=20, start="sweep", group_size=16)
        assert lost(block, fitted(block, learned, 3)) <= lost(block, fitted(block, start, 3))
        assert lost(block, fitted(block, start, 3)) < lost(block, fitted(block, RTN(group_size=16), 3))


@pytest.mark.parametrize("bits", [2, 3])
def test_learning_beats_rounding_by_far(block_of: Any, bits: int) -> None:
    block = block_of()
    rounding, gptq = (lost(block, fitted(block, kind(group_size=16), bits)) for kind in (RTN, GPTQ))
    assert lost(block, fitted(block, AutoRound(group_size=16), bits)) < 0.5 * rounding
    assert lost(block, fitted(block, AutoRound(group_size=16, start="sweep"), bits)) < gptq
    assert lost(block, fitted(block, OmniQuant(group_size=16), bits)) < 0.8 * rounding


def test_bits_of_slim_llm_plus_are_those_of_slim_llm(block_of: Any) -> None:
    block = block_of(0, 3, None, width=64, inner=96)
    plus = fitted(block, SlimLLMPlus(group_size=8, iterations=1), 3)
    plain = fitted(block, SlimLLM(group_size=8, search=0), 3)
    assert all(plus[name].grid.spec == plain[name].grid.spec for name in plain)
    assert any(len(set(one.grid.spec.bits)) > 1 for one in plus.values())


def test_the_two_losses_learn_different_ranges(block_of: Any) -> None:
    inner = block_of()
    block = type(inner)(**(vars(inner) | {"inputs": [x + 0.3 * x.roll(1, -1) for x in inner.inputs]}))
    one, other = (fitted(block, OmniQuant(group_size=16, augmented=flag), 3) for flag in (False, True))
    assert not same(one, other)


def test_mixed_formats_are_learned_as_they_are(block_of: Any) -> None:
    block = block_of(0, 3, None, width=64, inner=64)
    spec = PlaneSpec((1, 2, 1, 4), 16, "float", "fp16")
    for kind in KINDS:
        found = kind(iterations=2).tune(block, {"up": spec, "down": spec})
        assert all(one.grid.spec == spec and torch.isfinite(one.pack().dequantize()).all() for one in found.values())


def test_what_is_in_no_block_is_fitted_as_asked(layer_of: Any) -> None:
    layer, spec = layer_of(64, 12, 200, [3]), PlaneSpec.uniform(3, 64, 16)
    stats = Stats(layer.gram)
    fits = {how: AutoRound(ends=how).fit(layer.weight.clone(), stats, spec) for how in ("minmax", "search", "sweep")}
    assert same({"w": fits["minmax"]}, {"w": RTN().fit(layer.weight.clone(), Stats(), spec)})
    assert same({"w": fits["sweep"]}, {"w": SlimLLM().fit(layer.weight.clone(), stats, spec)})
    assert not same({"w": fits["search"]}, {"w": fits["minmax"]})


@pytest.mark.parametrize("options", [{"iterations": -1}, {"batches": 0}, {"start": "zero"}, {"ends": "x"}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_options_that_are_no_choice(kind: type[Learning], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        kind.from_options(options)
