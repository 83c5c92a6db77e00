"""Dropout: how much is left out, what becomes of the rest, and attention with it."""

from __future__ import annotations

import pytest
import torch

from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.model import Shape
from tailorbird.zoo.recommenders.sasrec import Block, attention_mask


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_left_out_and_the_mean_stays(rate: float) -> None:
    found = Dropout(rate)(torch.ones(400, 251))
    kept = found != 0
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.01)
    assert found[kept].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-3)
    # No column and no row is favoured: every one holds about its share.
    for share in (kept.float().mean(0), kept.float().mean(1)):
        assert share.sub(1 - rate).abs().max() < 0.16


def test_the_seed_decides() -> None:
    drop, x = Dropout(0.3), torch.randn(7, 5)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(drop(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_gradients_pass_where_numbers_did() -> None:
    x = torch.randn(50, requires_grad=True)
    found = Dropout(0.5)(x)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(found != 0, 2.0, 0.0))


def test_nothing_is_left_out_when_not_training_or_at_zero() -> None:
    x = torch.randn(9)
    assert Dropout(0.9).eval()(x) is x and Dropout(0.0)(x) is x


def test_attention_in_training_is_that_of_answers() -> None:
    block = Block(Shape(items=9, width=8, heads=2, dropout=0.0), causal=True)
    ids = torch.tensor([[0, 0, 3, 4, 5], [1, 2, 3, 4, 5]])
    x, mask = torch.randn(2, 5, 8), attention_mask(ids, causal=True)
    torch.testing.assert_close(block.train()(x, mask), block.eval()(x, mask))
