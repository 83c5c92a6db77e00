"""Training rows of sequence models: every event of a row is a prediction, so a user is one row or a few, not one a
prefix."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import padded


def rows(split: Split, length: int, random: np.random.Generator) -> list[Ints]:
    """The training events of every user cut into pieces of at most length + 1 with one event in common, so that every
    event but a user's first is predicted once. Where the first cut falls is random."""
    found = []
    for user in range(split.data.users):
        events = split.train(user)
        first = len(events) - 1 if len(events) <= length + 1 else int(random.integers(1, length + 1))
        cuts = [0, *range(first, len(events) - 1, length), len(events) - 1]
        found += [events[a : b + 1] for a, b in pairwise(cuts) if b > a]
    return found


def causal_batches(
    split: Split, length: int, size: int, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and the item that follows each, int64 (batch, at most length), 0 where there is none. Rows of like length
    stand together, so that little is padded; the order of the batches is random."""
    pieces = rows(split, length, random)
    by_length = sorted(random.permutation(len(pieces)), key=lambda i: len(pieces[i]))
    groups = [by_length[i : i + size] for i in range(0, len(pieces), size)]
    for g in random.permutation(len(groups)):
        ids = padded([pieces[i] for i in groups[g]], length + 1)
        yield ids[:, :-1], ids[:, 1:] * (ids[:, :-1] != 0)


def masked_batches(
    split: Split, length: int, size: int, mask: int, share: float, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows with a share of their events masked, and the masked items where they are, else 0. One row in ten has only
    its last event masked, as in a prediction."""
    pieces = rows(split, length - 1, random)
    order = random.permutation(len(pieces))
    for start in range(0, len(order), size):
        ids = padded([pieces[i] for i in order[start : start + size]], length)
        hidden = torch.from_numpy(random.random(ids.shape) < share)
        last = torch.from_numpy(random.random(len(ids)) < 0.1)
        hidden[last] = False
        hidden[last, -1] = True
        hidden &= ids != 0
        yield ids.masked_fill(hidden, mask), ids * hidden
