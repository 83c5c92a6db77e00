"""TIGER: codes that stand for items, the tree of them, and a search that finds items only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.errors import DataError, ModelError, UsageError
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import leave_one_out
from tailorbird.zoo.recommenders import folder, tiger
from tailorbird.zoo.recommenders.item_vectors import item_vectors
from tailorbird.zoo.recommenders.model import Shape
from tailorbird.zoo.recommenders.quantize import kmeans, residual_kmeans, semantic_ids, told_apart, trained
from tailorbird.zoo.recommenders.recommend import recommend
from tailorbird.zoo.recommenders.run import train_and_test
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.tiger import LEVELS, SIZE, Tiger
from tailorbird.zoo.recommenders.training import begin, train
from tailorbird.zoo.recommenders.trie import trie_of

SMALL = {"length": 6, "width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
QUICK: dict[str, Any] = {"epochs": 3, "batch": 16, "rate": 0.01}


def clusters(groups: int = 4, each: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = 5 * random.standard_normal((groups, 8))
    noise = 0.1 * random.standard_normal((groups * each, 8))
    return (np.repeat(centres, each, axis=0) + noise).astype(np.float32)


def made(items: int = 40, kinds: int = 3) -> Tiger:
    """With few values a code, so that many items begin alike."""
    torch.manual_seed(0)
    model = Tiger(Shape(items, **SMALL)).eval()
    random = np.random.default_rng(1)
    model.codes[1:] = torch.from_numpy(told_apart(random.integers(0, kinds, (items, LEVELS - 1)), SIZE))
    return model


def test_what_is_left_shrinks_and_sums_up() -> None:
    points = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    codes, books = residual_kmeans(points, 3, 16, seed=0)
    left, sizes = points.copy(), [float((points**2).sum())]
    for level in range(3):
        left -= books[level][codes[:, level]]
        sizes.append(float((left**2).sum()))
    assert sizes[0] > 1.3 * sizes[1] > 1.69 * sizes[2] > 2.197 * sizes[3]
    rebuilt = sum(books[level][codes[:, level]] for level in range(3))
    np.testing.assert_allclose(rebuilt + left, points, atol=1e-5)


def test_as_many_centres_as_points_leave_nothing() -> None:
    points = clusters()
    codes, books = residual_kmeans(points, 2, 32, seed=0)
    np.testing.assert_allclose(books[0][codes[:, 0]], points, atol=1e-5)
    assert np.isfinite(kmeans(np.zeros((3, 2), np.float32), 8, np.random.default_rng(0))).all()


@pytest.mark.parametrize("quantizer", ["rq-vae", "rq-kmeans"])
def test_like_items_begin_alike_and_none_are_equal(quantizer: Any) -> None:
    ids = semantic_ids(clusters(), LEVELS, 4, quantizer, seed=0)
    assert len(np.unique(ids, axis=0)) == 20 and ids.min() >= 0 and ids.max() < 4
    first = ids[:, 0].reshape(4, 5)
    assert (first == first[:, :1]).all() and len(np.unique(first)) == 4
    np.testing.assert_array_equal(ids, semantic_ids(clusters(), LEVELS, 4, quantizer, seed=0))


def test_rq_vae_gives_its_vectors_back() -> None:
    points = clusters()
    model = trained(points, 2, 4, seed=0)
    with torch.no_grad():
        codes, rounded, _ = model.quantized(model.encoder(torch.from_numpy(points)))
        back = model.decoder(rounded).numpy()
    rows = sum(model.books[level][codes[:, level]] for level in range(2))
    torch.testing.assert_close(rounded, rows.detach(), atol=1e-4, rtol=1e-4)
    assert ((back - points) ** 2).sum() < 0.1 * ((points - points.mean(0)) ** 2).sum()


def test_more_equal_items_than_codes() -> None:
    ids = told_apart(np.full((10, 2), 3), size=4)  # a row of 3, 3 has room for four
    assert len(np.unique(ids, axis=0)) == 10 and ids.max() < 4
    assert (ids[:4] == [[3, 3, 0], [3, 3, 1], [3, 3, 2], [3, 3, 3]]).all() and (ids[4] == [0, 0, 0]).all()
    with pytest.raises(DataError, match="more levels"):
        told_apart(np.zeros((9, 2), np.int64), size=2)


def test_vectors(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    events = item_vectors(split, "events", 8)
    near = events @ events.T
    assert events.shape == (12, 8) and near[0, 1] > near[0, 6]  # neighbours on the circle, and opposite
    titled = Sequences("t", np.array([0, 3]), np.array([1, 2, 3]), 3, titles=("red hat", "red shoe", "blue car"))
    text = item_vectors(leave_one_out(titled), "text", 2)
    assert text[0] @ text[1] > abs(text[0] @ text[2])
    assert item_vectors(split, "both", 8).shape == (12, 16)
    alone = Sequences("t", np.array([0, 3, 4]), np.array([1, 2, 3, 1]), 3)  # no two events to train on
    assert not item_vectors(leave_one_out(alone), "events").any()
    with pytest.raises(DataError, match="no titles"):
        item_vectors(leave_one_out(Sequences("t", np.array([0, 3]), np.array([1, 2, 3]), 3)), "text")


def test_the_tree_leads_to_every_item_and_nowhere_else() -> None:
    model = made()
    trie = model.trie()
    node = torch.zeros(40, dtype=torch.int64)
    for level in range(LEVELS):
        assert trie.allowed[level][node, model.codes[1:, level]].all()
        torch.testing.assert_close(trie.path[:, level], node)
        node = trie.child(level, node, model.codes[1:, level])
    torch.testing.assert_close(trie.item[node], torch.arange(40))
    assert int(trie.allowed[-1].sum()) == 40


def test_probabilities_of_all_items_sum_to_one() -> None:
    model, state = made(), torch.randn(3, 16)
    with torch.no_grad():
        each = model.surprises(state.repeat_interleave(40, 0), torch.arange(1, 41).repeat(3)).view(3, 40)
    torch.testing.assert_close((-each).exp().sum(1), torch.ones(3))


def test_a_wide_beam_is_exhaustive(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = made(), torch.randn(3, 16)
    with torch.no_grad():
        every = -model.surprises(state.repeat_interleave(40, 0), torch.arange(1, 41).repeat(3)).view(3, 40)
        torch.testing.assert_close(model.scores(state)[:, 1:], every)
        monkeypatch.setattr(tiger, "BEAM", 8)
        some = model.scores(state)[:, 1:]
    found = some.isfinite()
    assert (found.sum(1) == 8).all()  # real items only, as many as the beam is wide
    torch.testing.assert_close(some[found], every[found])
    assert (some.argmax(1) == every.argmax(1)).all()


def test_items_outside_the_beam_are_last(cycles: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiger, "BEAM", 1)
    ranks = full_ranking(leave_one_out(cycles), Tiger(Shape(12, **SMALL)).score, seen=True).ranks
    assert set(ranks.tolist()) <= {0, 11}
    best = recommend(Tiger(Shape(12, **SMALL)), [], [1, 2], 5, seen=True)
    assert len(best) == 1 and math.isfinite(best[0].score)


def test_learns_a_chain(cycles: Sequences) -> None:
    split, settings = leave_one_out(cycles), Settings(epochs=25, batch=16, rate=0.01, patience=25)
    torch.manual_seed(0)
    state = begin(Tiger(Shape(12, **SMALL)), settings)
    train(state, split, settings)
    ranks = full_ranking(split, state.model.score).ranks
    assert (ranks == 0).mean() > 0.95, state.log[-1]


def test_codes_are_saved_and_checked(cycles: Sequences, tmp_path: Path) -> None:
    options: dict[str, Any] = {"shape": SMALL, "settings": QUICK}
    one = train_and_test("tiger", cycles, "leave-one-out", tmp_path / "one", **options)
    assert one["settings"]["vectors"] == "events" and one["settings"]["ids"] == "rq-vae"
    model = folder.read(tmp_path / "one")[0]
    other = Tiger(Shape(12, **SMALL))
    other.name_items(leave_one_out(cycles), "events", "rq-vae", 0)
    torch.testing.assert_close(model.codes, other.codes)
    path = tmp_path / "one" / folder.TENSORS
    tensors = {key: read_tensor(info, error=ModelError) for key, info in read_header(path, error=ModelError).items()}
    for bad in (SIZE, -1, int(model.codes[2, -1])):
        codes = tensors["codes"].clone()
        codes[1] = codes[2]
        codes[1, -1] = bad
        write(path, tensors | {"codes": codes})
        with pytest.raises(ModelError, match="semantic id"):
            folder.read(tmp_path / "one")


def test_killed_and_resumed_is_the_same(cycles: Sequences, tmp_path: Path) -> None:
    options: dict[str, Any] = {"shape": SMALL | {"dropout": 0.2}, "settings": QUICK}
    whole = train_and_test("tiger", cycles, "leave-one-out", tmp_path / "whole", **options)

    def kill(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_and_test("tiger", cycles, "leave-one-out", tmp_path / "cut", told=kill, **options)
    cut = train_and_test("tiger", cycles, "leave-one-out", tmp_path / "cut", resume=True, **options)
    assert cut["test"] == whole["test"]
    first, second = (folder.read(tmp_path / which)[0].state_dict() for which in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_it_has_not(cycles: Sequences, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of: ce"):
        train_and_test("tiger", cycles, "leave-one-out", tmp_path / "m", settings={"loss": "gbce"})
    for wrong in ({"vectors": "smell"}, {"ids": "isbn"}):
        with pytest.raises(UsageError, match="rq-kmeans"):
            Settings(**wrong)
    with pytest.raises(ModelError, match="same"):
        trie_of(torch.zeros(2, 3, dtype=torch.int64), 4)
