"""Heads by gradient steps on a user's own events."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tailorbird.tailor.duet import Static, through
from tailorbird.tailor.finetune import finetuned
from tailorbird.tailor.head import NAMES

from .conftest import WIDTH, made

HISTORIES = [np.array([1, 2, 1, 2, 1, 2, 1]), np.array([5]), np.array([], np.int64)]


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "din"])
def test_steps_learn_from_the_users_own_events(name: str) -> None:
    trunk = made(name)
    torch.manual_seed(0)
    start = dict(zip(NAMES, Static(WIDTH).values, strict=True))
    same = finetuned(trunk, start, HISTORIES, steps=0)
    moved = finetuned(trunk, start, HISTORIES, steps=20, rate=0.02)
    for key in NAMES:
        assert same[key].shape == (3, *start[key].shape)
        np.testing.assert_array_equal(same[key][0], start[key].detach())
        np.testing.assert_array_equal(moved[key][1:], same[key][1:])  # nothing to learn from
    lost = []
    for heads in (same, moved):
        with torch.no_grad():
            state = trunk.last(trunk.window(HISTORIES[:1]))
            mapped = through(state, {key: torch.from_numpy(values[:1]) for key, values in heads.items()})
            lost.append(float(functional.cross_entropy(trunk.scores(mapped)[:, 1:], torch.tensor([1]))))
    assert lost[1] < lost[0] - 0.5  # 2 is what follows 1 in this history


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_a_head_does_not_depend_on_whose_are_made_with_it(name: str) -> None:
    trunk = made(name)
    torch.manual_seed(0)
    start = dict(zip(NAMES, Static(WIDTH).values, strict=True))
    alone = finetuned(trunk, start, HISTORIES[:1], steps=5)
    others = finetuned(trunk, start, [np.array([3, 1, 2]), *HISTORIES], steps=5)
    for key in NAMES:
        np.testing.assert_array_equal(others[key][1], alone[key][0])
