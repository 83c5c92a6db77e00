"""DIN: its attention by hand, ranking in blocks, and the published form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.split import leave_one_out
from tailorbird.zoo.recommenders import din
from tailorbird.zoo.recommenders.batches import case_batches
from tailorbird.zoo.recommenders.din import DIN, Dice, DINShape
from tailorbird.zoo.recommenders.objectives import softmax_of_first, with_negatives
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.training import begin, train

SIZES: dict[str, Any] = {"items": 12, "length": 6, "width": 8, "heads": 1, "dropout": 0.0}


def made(**sizes: Any) -> DIN:
    torch.manual_seed(0)
    return DIN(DINShape(**(SIZES | sizes))).eval()


@torch.no_grad()
def test_attention_by_hand() -> None:
    """Weights of events are a softmax of products, with one place more that holds nothing."""
    model, history, candidate = made(), [3, 1, 4], 7
    table, ages = model.items.weight, [2, 1, 0]
    events = [table[i] * math.sqrt(8) + model.positions.weight[a] for i, a in zip(history, ages, strict=True)]
    asked = model.query.weight @ table[candidate]
    weights = [math.exp(float(asked @ (model.key.weight @ event)) / math.sqrt(8)) for event in events]
    pooled = sum((w / (1 + sum(weights))) * (model.value.weight @ e) for w, e in zip(weights, events, strict=True))
    assert isinstance(pooled, torch.Tensor)
    state = pooled + model.down(torch.relu(model.read(pooled) + model.target(table[candidate])))
    ids = torch.tensor([[0, 0, 3, 1, 4]])
    torch.testing.assert_close(model.towards(ids, torch.tensor([candidate]))[0, 0], state)
    wanted = float(state @ table[candidate])
    assert model.score([np.array(history)])[0, candidate] == pytest.approx(wanted, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("form", ["dot", "published"])
def test_the_catalogue_in_blocks(monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    model, ids = made(form=form), torch.tensor([[0, 3, 1], [2, 5, 4]])
    whole = model.ranked(ids)
    monkeypatch.setattr(din, "AT_ONCE", 5 * len(ids))
    torch.testing.assert_close(model.ranked(ids), whole)
    assert model.ranked(ids[:0]).shape == (0, whole.shape[1])
    some = torch.tensor([[7, 2], [1, 12]])
    torch.testing.assert_close(model.logits(ids, some), whole.gather(1, some))
    if form == "dot":
        torch.testing.assert_close(model.scores(model.last(ids)), whole)
        torch.testing.assert_close(model.ranked(ids, lambda state: 2 * state), 2 * whole)


@torch.no_grad()
def test_the_published_form_sums() -> None:
    """Without a softmax two equal events weigh twice as much as one, and their order means nothing."""
    model, among = made(form="published"), torch.tensor([7])
    one, two = (model.towards(torch.tensor([row]), among) for row in ([0, 3], [3, 3]))
    torch.testing.assert_close(two, 2 * one)
    turned = [model.towards(torch.tensor([row]), among) for row in ([1, 3], [3, 1])]
    torch.testing.assert_close(turned[0], turned[1])


def test_dice_is_a_gate_between_two_slopes() -> None:
    dice = Dice(1).eval()
    with torch.no_grad():
        dice.slope.fill_(0.25)
    found = dice(torch.tensor([[-40.0], [0.0], [40.0]]))
    torch.testing.assert_close(found, torch.tensor([[-10.0], [0.0], [40.0]]))


def test_the_published_form_learns(cycles: Sequences) -> None:
    """Binary cross-entropy with sampled negatives goes below that of a constant."""
    settings = Settings(epochs=12, every=12, batch=64, rate=0.01, loss="bce", negatives=4)
    state = begin(made(form="published"), settings)
    train(state, leave_one_out(cycles), settings)
    constant = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert state.log[-1]["loss"] < 0.9 * constant


def test_a_right_item_drawn_again_is_no_wrong_one() -> None:
    logits = torch.tensor([[2.0, 9.0, 1.0]])
    found = softmax_of_first(logits, torch.tensor([[5, 5, 3]]))
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)))
    among = with_negatives(torch.tensor([5, 6]), 12, 100, np.random.default_rng(0))
    assert among.shape == (2, 101) and among[:, 0].tolist() == [5, 6] and among.min() >= 1 and among.max() == 12


def test_every_training_event_is_a_case_once(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    seen = [
        (tuple(row[row != 0].tolist()), int(target))
        for ids, targets in case_batches(split, 4, 7, np.random.default_rng(0))
        for row, target in zip(ids, targets, strict=True)
    ]
    wanted = [
        (tuple(events[max(0, place - 4) : place].tolist()), int(events[place]))
        for events in map(split.train, range(cycles.users))
        for place in range(1, len(events))
    ]
    assert sorted(seen) == sorted(wanted)


def test_an_unknown_form() -> None:
    with pytest.raises(UsageError, match="form"):
        made(form="other")
