"""LightGCN: its propagation against dense matrices, folding in, and learning groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import hit
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import Split, leave_one_out
from tailorbird.zoo.recommenders.lightgcn import GraphShape, LightGCN
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.training import begin, train


def made(data: Sequences, **sizes: Any) -> LightGCN:
    torch.manual_seed(0)
    sizes = LightGCN.sizes_of(leave_one_out(data)) | {"width": 8, "layers": 3} | sizes
    return LightGCN(GraphShape(**sizes)).eval()


@pytest.fixture
def groups() -> Sequences:
    """Forty users, half of whom take from items 1 to 10 and half from 11 to 20."""
    random = np.random.default_rng(0)
    runs = [10 * (user % 2) + 1 + random.permutation(10)[:8] for user in range(40)]
    return Sequences("groups", np.arange(0, 321, 8), np.concatenate(runs), 20)


def dense(split: Split, model: LightGCN) -> torch.Tensor:
    """Vectors of all nodes, by the formula."""
    users, items = split.data.users, split.data.count
    a = np.zeros((users + items + 1, users + items + 1))
    for user in range(users):
        for item in split.train(user):
            a[user, users + item] = a[users + item, user] = 1
    degree = np.maximum(a.sum(1), 1)
    step = torch.from_numpy(a / np.sqrt(degree[:, None] * degree[None])).float()
    layers = [torch.cat([model.users.weight, model.items.weight]).detach()]
    for _ in range(model.shape.layers):
        layers.append(step @ layers[-1])
    return torch.stack(layers).mean(0)


def test_propagation_is_the_formula(cycles: Sequences) -> None:
    """An item met twice by one user is one edge; the pad has none."""
    split = leave_one_out(cycles)
    model = made(cycles)
    graph, user, item = model.graph(split)
    users, items = model.propagated(graph)
    torch.testing.assert_close(torch.cat([users, items]).detach(), dense(split, model))
    assert len(user) == len({*zip(user.tolist(), item.tolist(), strict=True)})
    assert items[0].abs().max() == 0
    model.settle(graph)
    torch.testing.assert_close(model.vectors, items.detach())


def test_a_history_is_folded_in(cycles: Sequences) -> None:
    """The state is the mean of the items' vectors, in any order: a new user needs no training."""
    model = made(cycles)
    model.settle(model.graph(leave_one_out(cycles))[0])
    wanted = model.vectors[[3, 5, 8]].mean(0) @ model.vectors.T
    np.testing.assert_allclose(model.score([np.array([3, 5, 8])])[0], wanted.numpy(), atol=1e-6)
    np.testing.assert_allclose(model.score([np.array([8, 3, 5])])[0], wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize(("loss", "batch"), [("ce", 20), ("bpr", 64)])
def test_groups_are_found(groups: Sequences, loss: Any, batch: int) -> None:
    """Two of ten items of the right group are not in the history: a hit among the first two is certain then."""
    split = leave_one_out(groups)
    settings = Settings(epochs=12, batch=batch, rate=0.03, loss=loss, every=4)
    state = begin(made(groups), settings)
    train(state, split, settings)
    ranks = full_ranking(split, state.model.score).ranks
    assert hit(ranks, 3).mean() > 0.95, state.log
    again = begin(made(groups), settings)
    train(again, split, settings)
    assert all(torch.equal(a, b) for a, b in zip(state.best.values(), again.best.values(), strict=True))


def test_users_are_counted(cycles: Sequences) -> None:
    assert made(cycles).users.weight.shape == (60, 8)
    with pytest.raises(UsageError, match="0 users"):
        GraphShape(items=3, users=0)
