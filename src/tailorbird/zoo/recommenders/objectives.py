"""What every kind of recommender is trained on: the losses of an epoch, one a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.batches import case_batches, causal_batches, masked_batches, timed_batches
from tailorbird.zoo.recommenders.losses import gbce
from tailorbird.zoo.recommenders.settings import Settings

# A model, its data, how to train, and the source of chance, to losses and the number of predictions in each. The next
# batch begins when the step on the last one is done.
Objective = Callable[[Any, Split, Settings, np.random.Generator], Iterator[tuple[Tensor, int]]]
RIDGE = 1e-4  # of LightGCN's embeddings, for the published loss


def next_items(
    model: Any, split: Split, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Tensor, int]]:
    """What follows every event of a row."""
    for ids, targets in causal_batches(split, model.shape.length, settings.batch, random):
        yield _at_targets(model, model.states(ids), targets, settings)


def masked_items(
    model: Any, split: Split, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Tensor, int]]:
    """What stands under masks."""
    shape = model.shape
    for ids, targets in masked_batches(split, shape.length, settings.batch, model.mask, settings.masked, random):
        yield _at_targets(model, model.states(ids), targets, settings)


def timed_items(
    model: Any, split: Split, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Tensor, int]]:
    """`next_items` with the times of events. A model that is not causal predicts what follows the row alone."""
    for ids, targets, times in timed_batches(split, model.shape.length, settings.batch, random):
        if not model.causal:
            targets = torch.cat([torch.zeros_like(targets[:, :-1]), targets[:, -1:]], 1)
        yield _at_targets(model, model.states(ids, times), targets, settings)


def among_some(
    model: Any, split: Split, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Tensor, int]]:
    """The right item among uniform others, as many a prediction as `negatives`: softmax, or a yes or no each."""
    for ids, target in case_batches(split, model.shape.length, settings.batch, random):
        among = with_negatives(target, model.shape.items, settings.negatives, random)
        logits = model.logits(ids, among)
        if settings.loss == "ce":
            yield softmax_of_first(logits, among), len(target)
        else:
            labels = torch.zeros_like(logits)
            labels[:, 0] = 1
            yield functional.binary_cross_entropy_with_logits(logits, labels), len(target)


def with_negatives(target: Tensor, items: int, count: int, random: np.random.Generator) -> Tensor:
    """Every target and `count` uniform items behind it, int64 (batch, 1 + count)."""
    drawn = torch.from_numpy(random.integers(1, items + 1, (len(target), count)))
    return torch.cat([target[:, None], drawn], 1)


def softmax_of_first(logits: Tensor, among: Tensor) -> Tensor:
    """Cross-entropy of the first of every row; the same item drawn among the others takes no part."""
    again = among == among[:, :1]
    again[:, 0] = False
    return functional.cross_entropy(logits.masked_fill(again, -torch.inf), torch.zeros_like(among[:, 0]))


def edges(model: Any, split: Split, settings: Settings, random: np.random.Generator) -> Iterator[tuple[Tensor, int]]:
    """Every item of every user, `batch` users at once: softmax over the catalogue. Or as published, `batch` edges at
    once: above one uniform item (BPR)."""
    graph, user, item = model.graph(split)
    if settings.loss == "ce":
        for some in np.array_split(random.permutation(model.shape.users), -(-model.shape.users // settings.batch)):
            row = torch.full((model.shape.users,), -1)
            row[some] = torch.arange(len(some))
            mine = row[user] >= 0
            users, items = model.propagated(graph)
            likely = functional.log_softmax((users[some] @ items.T)[:, 1:], 1)
            yield -likely[row[user[mine]], item[mine] - 1].mean(), int(mine.sum())
    else:
        for edge in torch.split(torch.from_numpy(random.permutation(len(user))), settings.batch):
            wrong = torch.from_numpy(random.integers(1, model.shape.items + 1, len(edge)))
            yield bpr(model, graph, user[edge], item[edge], wrong), len(edge)
    model.settle(graph)


def bpr(model: Any, graph: Tensor, user: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """How surely the right item stands above the wrong one, and the squares of the first vectors of all three."""
    users, items = model.propagated(graph)
    gap = (users[user] * (items[right] - items[wrong])).sum(1)
    first = [model.users.weight[user], model.items.weight[right], model.items.weight[wrong]]
    size = torch.stack([vectors.square().sum() for vectors in first]).sum() / (2 * len(user))
    return -functional.logsigmoid(gap).mean() + RIDGE * size


def _at_targets(model: Any, states: Tensor, targets: Tensor, settings: Settings) -> tuple[Tensor, int]:
    there = targets != 0
    chosen, right = states[there], targets[there]
    if settings.loss == "ce":
        return model.surprise(chosen, right), len(right)
    return gbce(model, chosen, right, settings.negatives), len(right)


OBJECTIVES: dict[str, Objective] = {
    "bert4rec": masked_items, "din": among_some, "lightgcn": edges, "hytrec": timed_items
}  # fmt: skip
