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


def places(split: Split, length: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """The training events of every user cut into pieces of at most length + 1 with one event in common, so that every
    event but a user's first is predicted once: begin and end among all events. Where the first cut falls is random."""
    found = []
    for user in range(split.data.users):
        begin, events = int(split.data.offsets[user]), len(split.train(user))
        first = events - 1 if events <= length + 1 else int(random.integers(1, length + 1))
        cuts = [0, *range(first, events - 1, length), events - 1]
        found += [(begin + a, begin + b + 1) for a, b in pairwise(cuts) if b > a]
    return found


def rows(split: Split, length: int, random: np.random.Generator) -> list[Ints]:
    """The items of `places`."""
    return [split.data.items[a:b] for a, b in places(split, length, random)]


def _groups(lengths: list[int], size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Rows in batches, those of like length together, so that little is padded; the order of the batches is random."""
    by_length = sorted(random.permutation(len(lengths)), key=lambda i: lengths[i])
    groups = [by_length[i : i + size] for i in range(0, len(lengths), size)]
    for g in random.permutation(len(groups)):
        yield groups[g]


def causal_batches(
    split: Split, length: int, size: int, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and the item that follows each, int64 (batch, at most length), 0 where there is none."""
    for ids, targets, _ in timed_batches(split, length, size, random):
        yield ids, targets


def timed_batches(
    split: Split, length: int, size: int, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """`causal_batches` with the time of every input, int64 of the same shape; 0 at pads. None without times."""
    pieces, data = places(split, length, random), split.data
    for group in _groups([b - a for a, b in pieces], size, random):
        some = [slice(*pieces[i]) for i in group]
        ids = padded([data.items[piece] for piece in some], length + 1)
        times = None if data.times is None else padded([data.times[piece] for piece in some], length + 1)[:, :-1]
        yield ids[:, :-1], ids[:, 1:] * (ids[:, :-1] != 0), times


def case_batches(split: Split, length: int, size: int, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The latest `length` events before a training event and that event, int64 (batch, at most length) and (batch,):
    every training event but a user's first once."""
    data = split.data
    owner = np.repeat(np.arange(data.users), data.lengths)
    place = np.arange(len(data.items))
    usable = np.flatnonzero((place > data.offsets[owner]) & (place < split.train_end[owner]))
    first = data.offsets[owner]
    for group in _groups(np.minimum(usable - first[usable], length).tolist(), size, random):
        at = usable[group]
        histories = [data.items[max(first[place], place - length) : place] for place in at]
        yield padded(histories, length), torch.from_numpy(data.items[at])


def masked_batches(
    split: Split, length: int, size: int, mask: int, share: float, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows with a share of their events masked, and the masked items where they are, else 0. One row in ten has only
    its last event masked, as in a prediction."""
    pieces = rows(split, length - 1, random)
    for group in _groups([len(piece) for piece in pieces], size, random):
        ids = padded([pieces[i] for i in group], length)
        hidden = torch.from_numpy(random.random(ids.shape) < share)
        last = torch.from_numpy(random.random(len(ids)) < 0.1)
        hidden[last] = False
        hidden[last, -1] = True
        hidden &= ids != 0
        yield ids.masked_fill(hidden, mask), ids * hidden
