"""Drawing tokens: the right ones, as often as they should come, and the same ones for a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.kernels.native import extension
from tailorbird.runtime.completion import Sampling
from tailorbird.runtime.sampling import Chance, Weights, choose

LIMITS: list[dict[str, Any]] = [
    {},
    {"top_k": 7},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


def expected(logits: Tensor, temperature: float, **limits: Any) -> Tensor:
    """Chances as the papers have them, by sorting everything."""
    chances, order = (logits.double() / temperature).softmax(-1).sort(descending=True)
    if "top_k" in limits:
        chances[limits["top_k"] :] = 0
        chances = chances / chances.sum()
    left = torch.ones_like(chances, dtype=torch.bool)
    if "top_p" in limits:
        left &= chances.cumsum(0) - chances < limits["top_p"]
    if "min_p" in limits:
        left &= chances >= limits["min_p"] * chances[0]
    found = torch.zeros_like(chances)
    found[order] = chances * left
    return found / found.sum()


def drawn(logits: Tensor, count: int, seed: int = 0, **settings: Any) -> Tensor:
    chance = Chance(seed)
    tokens = [choose(logits.numpy(), chance, **settings) for _ in range(count)]
    return torch.tensor(tokens).bincount(minlength=len(logits))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_tokens_come_as_often_as_they_should(temperature: float, limits: dict[str, Any]) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 2
    want = expected(logits, temperature, **limits)
    found = drawn(logits, 3000, temperature=temperature, **limits)
    assert found[want == 0].sum() == 0
    # Tokens that hardly come count together.
    often = want * 3000 >= 5
    pairs = [torch.cat([x[often], x[~often].sum()[None]]) for x in (found.double(), want * 3000)]
    counts, means = (x[pairs[1] > 0] for x in pairs)
    assert len(counts) == 1 or chisquare(counts.numpy(), means.numpy()).pvalue > 0.01


@pytest.mark.parametrize("limits", [{"top_k": 700}, {"top_p": 0.5}, {"min_p": 0.85}, {"top_k": 2000, "top_p": 0.5}])
def test_limits_beyond_the_few_that_are_looked_at_first(limits: dict[str, Any]) -> None:
    """Nearly even chances: the limits leave more tokens than are sorted at first."""
    logits = torch.randn(4000, generator=torch.Generator().manual_seed(4)) * 0.05
    want = expected(logits, 1.0, **limits)
    assert 512 < (want > 0).sum() < 4000
    assert set(drawn(logits, 500, temperature=1.0, **limits).nonzero()[:, 0].tolist()) <= set(
        want.nonzero()[:, 0].tolist()
    )
    lowest = int(torch.where(want > 0, logits, torch.inf).argmin())
    assert drawn(logits, 20000, temperature=1.0, **limits)[lowest] > 0


def test_even_chances_at_the_limit() -> None:
    logits = torch.zeros(3000)
    assert (drawn(logits, 300, temperature=1.0, top_k=5)[5:] == 0).all()
    assert (drawn(logits, 3000, temperature=1.0, top_p=0.5)[1500:] == 0).all()
    assert drawn(logits, 3000, temperature=1.0, min_p=1.0)[2000:].sum() > 500


def test_seeds() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(5))
    for limits in LIMITS:
        first, again, other = (drawn(logits, 40, seed, temperature=1.0, **limits) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)
    for seed in (-(2**63), 2**64 - 1):
        assert 0 <= Chance(Sampling(seed=seed).seed).random() < 1
    for seed in (-(2**63) - 1, 2**64):
        with pytest.raises(UsageError, match="seed is") as caught:
            Sampling(seed=seed)
        assert caught.value.hint


def test_chance_is_one_row_of_numbers_however_many_are_drawn_at_once() -> None:
    """A seed gives the same text as when numbers were drawn one by one."""
    chance, source = Chance(-3), np.random.Generator(np.random.PCG64(2**64 - 3))
    assert [chance.random() for _ in range(1000)] == [source.random() for _ in range(1000)]


def test_weights_are_powers_of_e() -> None:
    logits = np.linspace(-120, 5, 5000, dtype=np.float32)
    weights = Weights(logits, 1.25)
    found = weights.of(np.arange(len(weights.sums))).reshape(-1)[: len(logits)]
    wanted = np.exp((logits.astype(np.float64) - logits.max()) / 1.25)
    np.testing.assert_allclose(found, np.where(wanted > 2.0**-124, wanted, found), rtol=2e-5)
    near = wanted > 1e-3
    np.testing.assert_allclose(found[near], wanted[near], rtol=1.5e-6)
    assert found[-1] == 1 and (found[wanted < 2.0**-125] <= 2.0**-125).all()


def test_the_kernels_weigh_within_three_units_in_the_last_place() -> None:
    if extension() is None:
        pytest.skip("the kernels are not there")
    logits = np.linspace(-120, 0, 2**20, dtype=np.float32)
    weights = Weights(logits, float(np.float32(1.44269504)))  # logits are powers of two then, as they are
    found = weights.of(np.arange(len(weights.sums))).reshape(-1)
    wanted = np.exp2(logits.astype(np.float64))
    assert (np.abs(found - wanted) / np.spacing(wanted.astype(np.float32))).max() <= 3


def test_tokens_far_apart_are_drawn_by_their_chances() -> None:
    """In vocabularies that are searched stretch by stretch, the last one a short one."""
    logits = torch.full((2000,), -torch.inf)
    chances = {0: 0.1, 511: 0.2, 512: 0.3, 1999: 0.4}
    for token, share in chances.items():
        logits[token] = math.log(share)
    found = drawn(logits, 4000, temperature=1.0)
    assert found.sum() == found[list(chances)].sum()
    assert found[list(chances)].tolist() == pytest.approx([4000 * share for share in chances.values()], rel=0.1)


def test_logits_may_lie_apart() -> None:
    logits = torch.stack([torch.arange(300.0), -torch.arange(300.0)], 1)
    for column, likely in ((0, 299), (1, 0)):
        assert choose(logits[:, column].numpy(), Chance(0), temperature=0.01) == likely


def test_a_token_without_a_chance_is_never_drawn() -> None:
    logits = torch.full((100,), -torch.inf)
    logits[[3, 50]] = 0.0
    found = drawn(logits, 200, temperature=1.0)
    assert found[[3, 50]].min() > 50 and found.sum() == found[[3, 50]].sum()


def test_all_chances_together_leave_out_nothing() -> None:
    logits = torch.tensor([0.0, -4.0]).repeat(50)
    seeds = [Chance(seed) for seed in (7, 7)]
    one, other = (
        [choose(logits.numpy(), seed, 3.0, top_p=p) for _ in range(200)]
        for seed, p in zip(seeds, (1.0, None), strict=True)
    )
    assert one == other and 1 in {token % 2 for token in one}


@pytest.mark.parametrize("count", [1, 127, 128, 129, 3000])
def test_the_kernels_draw_as_plain_arithmetic_does(count: int) -> None:
    if (module := extension()) is None:
        pytest.skip("the kernels are not there")
    logits = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 3
    logits[::7] = -torch.inf
    logits[count // 2] = torch.nan if count > 1 else 1.0
    weights = Weights(logits.numpy(), 0.8)
    ours, theirs = Chance(2), Chance(2)
    assert [choose(logits.numpy(), ours, 0.8) for _ in range(300)] == [weights.drawn(theirs) for _ in range(300)]
    for uniform in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="chance"):
            module.draw(logits.numpy(), 0.8, uniform)
