"""Recommenders: causality, learning, resuming, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.errors import ModelError, UsageError
from tailorbird.tasks.sequences.dataset import Ints, Sequences
from tailorbird.tasks.sequences.metrics import hit
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import leave_one_out
from tailorbird.zoo.recommenders import RECOMMENDERS, find, folder
from tailorbird.zoo.recommenders.batches import causal_batches, masked_batches, rows
from tailorbird.zoo.recommenders.losses import gbce
from tailorbird.zoo.recommenders.model import Recommender, Shape
from tailorbird.zoo.recommenders.recommend import items_named, recommend
from tailorbird.zoo.recommenders.run import train_and_test
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.training import State, begin, train

SMALL = {"length": 6, "width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
QUICK: dict[str, Any] = {"epochs": 25, "batch": 16, "rate": 0.01}


def made(name: str, items: int = 12, **sizes: Any) -> Recommender:
    torch.manual_seed(0)
    kind = find(name)
    return kind(kind.sizes(items, **(SMALL | sizes))).eval()


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_causality(name: str) -> None:
    """Another event changes no state before it, for a causal model; a bidirectional one must see it."""
    model = made(name)
    ids = torch.tensor([[0, 3, 1, 4, 1, 5]])
    with torch.no_grad():
        before = model.states(ids)
        for place in range(1, 6):
            other = ids.clone()
            other[0, place] = 9
            after = model.states(other)
            assert torch.equal(before[0, 1:place], after[0, 1:place]) or not model.causal
            assert not torch.equal(before[0, place], after[0, place])
    if not model.causal:
        assert not torch.equal(before[0, 1], after[0, 1])


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_padding_means_nothing(name: str) -> None:
    model = made(name)
    history = np.array([3, 1, 4])
    alone = model.score([history])
    beside = model.score([history, np.array([1, 2, 3, 4, 5, 6])])
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)
    assert np.isfinite(model.score([np.array([], np.int64)])).all()  # a new user


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_only_the_latest_events_count(name: str) -> None:
    model = made(name)
    long = np.array([9, 9, 1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(model.score([long]), model.score([long[-6:]]))


@pytest.mark.parametrize(
    ("name", "loss"),
    [("sasrec", "ce"), ("sasrec", "gbce"), ("gru4rec", "ce"), ("bert4rec", "ce"), ("din", "ce"), ("hytrec", "ce")],
)
def test_learns_a_chain(cycles: Sequences, name: str, loss: str) -> None:
    split = leave_one_out(cycles)
    settings = Settings(**QUICK, loss=loss, negatives=8, patience=25, masked=0.4)  # type: ignore[arg-type]
    state = begin(made(name), settings)
    train(state, split, settings)
    found = hit(full_ranking(split, state.model.score).ranks, 1).mean()
    assert found > 0.95, state.log[-1]


def chain(users: int, length: int, seed: int) -> tuple[Ints, Ints]:
    """Walks through 50 items, (users, length), and what mostly follows each item: seven times in ten, else anything."""
    random, turn = np.random.default_rng(seed), np.random.default_rng(0).permutation(50)
    rows = [random.integers(0, 50, users)]
    for _ in range(length - 1):
        rows.append(np.where(random.random(users) < 0.7, turn[rows[-1]], random.integers(0, 50, users)))
    return np.stack(rows, 1) + 1, np.append(0, turn + 1)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_a_noisy_chain_is_learnt_to_its_end(name: str) -> None:
    """Nobody can be right more often than the likeliest step of a chain is taken; a model comes near it."""
    ids, _ = chain(200, 20, 1)
    data = Sequences("chain", np.arange(0, 4001, 20), ids.reshape(-1), 50)
    settings = Settings(epochs=12, batch=16, rate=0.005, patience=12, every=4)
    state = begin(made(name, 50, width=32, length=8), settings)
    train(state, leave_one_out(data), settings)
    walks, mostly = chain(2000, 9, 2)
    best = (mostly[walks[:, 7]] == walks[:, 8]).mean()
    found = (state.model.score(list(walks[:, :8])).argmax(1) == walks[:, 8]).mean()
    assert 0.68 < best < 0.73 and best - 0.03 < found < best + 0.02


def test_every_event_is_predicted_once(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    random = np.random.default_rng(3)
    for user in range(5):
        one = leave_one_out(Sequences("one", np.array([0, len(cycles.of(user))]), cycles.of(user), 12))
        pieces = rows(one, 3, random)
        assert [int(item) for piece in pieces for item in piece[1:]] == one.train(0)[1:].tolist()
        assert max(map(len, pieces)) <= 4
    targets = sum(int((right != 0).sum()) for _, right in causal_batches(split, 3, 7, random))
    assert targets == int((split.train_end - cycles.offsets[:-1] - 1).sum())


def test_masks(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    hidden = shown = 0
    for ids, right in masked_batches(split, 6, 16, 13, 0.3, np.random.default_rng(0)):
        assert ((ids == 13) == (right != 0)).all() and (right <= 12).all()
        hidden, shown = hidden + int((right != 0).sum()), shown + int(((ids != 0) & (ids != 13)).sum())
    assert 0.2 < hidden / (hidden + shown) < 0.4


def test_gbce_is_bce_of_all_items_at_the_edge() -> None:
    """With t = 0 the positive's power is 1: plain binary cross-entropy."""
    model = made("sasrec")
    state, target = torch.randn(5, 16), torch.tensor([1, 2, 3, 4, 5])
    torch.manual_seed(1)
    found = gbce(model, state, target, 4, t=0.0)
    torch.manual_seed(1)
    drawn = torch.randint(1, 13, (5, 4))
    scores = torch.cat([model.items.weight[target][:, None], model.items.weight[drawn]], 1) @ state[:, :, None]
    labels = torch.tensor([1.0, 0, 0, 0, 0]).repeat(5, 1)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(scores[:, :, 0], labels)
    assert found.item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_pad_is_never_predicted() -> None:
    model = made("sasrec")
    state = torch.randn(3, 16)
    lost = model.surprise(state, torch.tensor([1, 2, 3]))
    with torch.no_grad():
        model.items.weight[0] = 100.0
    assert model.surprise(state, torch.tensor([1, 2, 3])).item() == lost.item()


class _Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "din", "lightgcn", "hytrec"])
def test_killed_and_resumed_is_the_same(cycles: Sequences, tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"shape": SMALL | {"dropout": 0.2}, "settings": QUICK | {"epochs": 4}}
    whole = train_and_test(name, cycles, "leave-one-out", tmp_path / "whole", **options)

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise _Killed

    with pytest.raises(_Killed):
        train_and_test(name, cycles, "leave-one-out", tmp_path / "cut", told=kill, **options)
    with pytest.raises(UsageError, match="unfinished"):
        train_and_test(name, cycles, "leave-one-out", tmp_path / "cut", **options)
    other = options | {"settings": options["settings"] | {"seed": 5}}
    with pytest.raises(UsageError, match="another training"):
        train_and_test(name, cycles, "leave-one-out", tmp_path / "cut", resume=True, **other)
    cut = train_and_test(name, cycles, "leave-one-out", tmp_path / "cut", resume=True, **options)
    assert cut["test"] == whole["test"]
    first, second = (folder.read(tmp_path / which)[0].state_dict() for which in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not list(tmp_path.glob("*.training"))


def test_what_is_saved_is_what_was_tested(cycles: Sequences, tmp_path: Path) -> None:
    found = train_and_test("sasrec", cycles, "time", tmp_path / "m", shape=SMALL, settings=QUICK | {"epochs": 2})
    model, about = folder.read(tmp_path / "m")
    assert about["data"]["digest"] == cycles.digest and about["test"] == json.loads(json.dumps(found["test"]))
    assert "without items of the history" in about["test"]["protocol"]
    best = recommend(model, about["titles"], [1, 2, 3], 4)
    assert len(best) == 4 and not {1, 2, 3} & {one.item for one in best} and best[0].title == f"Film {best[0].item}"
    assert {one.item for one in recommend(model, about["titles"], [1, 2, 3], 12, seen=True)} >= {1, 2, 3}
    with pytest.raises(UsageError, match="between 1 and 12"):
        recommend(model, about["titles"], [13])
    with pytest.raises(UsageError, match="exists"):
        train_and_test("sasrec", cycles, "time", tmp_path / "m")


def test_titles() -> None:
    titles = ["Alien (1979)", "Aliens (1986)", "Heat (1995)"]
    assert items_named(["heat", "2", "alien (1979)"], titles) == [3, 2, 1]
    with pytest.raises(UsageError, match="2 items"):
        items_named(["alien"], titles)
    with pytest.raises(UsageError, match="0 items"):
        items_named(["Stalker"], titles)


def test_damaged_folders(cycles: Sequences, tmp_path: Path) -> None:
    train_and_test("gru4rec", cycles, "leave-one-out", tmp_path / "m", shape=SMALL, settings=QUICK | {"epochs": 1})
    config = tmp_path / "m" / folder.CONFIG
    about = json.loads(config.read_text())
    for change in ({"name": "nobody"}, {"shape": {"items": "x"}}, {"titles": ["one"]}, {"version": 9}):
        config.write_text(json.dumps(about | change))
        with pytest.raises(ModelError):
            folder.read(tmp_path / "m")
    config.write_text(json.dumps(about | {"shape": about["shape"] | {"width": 18}}))
    with pytest.raises(ModelError, match="another shape"):
        folder.read(tmp_path / "m")


@pytest.mark.parametrize("sizes", [{"width": 15}, {"items": 0}, {"dropout": 1.0}, {"layers": 0}])
def test_impossible_sizes(sizes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Shape(**({"items": 5} | sizes))


@pytest.mark.parametrize("values", [{"epochs": 0}, {"rate": -1.0}, {"loss": "l2"}, {"masked": 0.0}])
def test_impossible_settings(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**values)


def test_state_ends() -> None:
    settings = Settings(epochs=10, patience=2)
    state = State(made("sasrec"), begin(made("sasrec"), settings).optimiser, epoch=5)
    state.log = [{"epoch": 3, "best": True}, {"epoch": 5, "best": False}]
    assert state.finished(settings)
    state.log[-1]["best"] = True
    assert not state.finished(settings)
