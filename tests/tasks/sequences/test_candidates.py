"""Candidates are drawn once, kept, and held to the data they are used on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.formats.safetensors_write import stream
from tailorbird.tasks.sequences import candidates
from tailorbird.tasks.sequences.dataset import Ints, Sequences
from tailorbird.tasks.sequences.ranking import digest_of, full_ranking, sampled_ranking
from tailorbird.tasks.sequences.split import Split, last_events, leave_one_out


@pytest.fixture
def split(cycles: Sequences) -> Split:
    return leave_one_out(cycles)


def forged(path: Path, split: Split, found: Ints, **words: object) -> Path:
    """A file that says what it should, whatever it holds."""
    about = candidates._words(split, "test") | {"seed": 0, "candidates": digest_of(found)} | words
    tensor = torch.from_numpy(found)
    stream(path, {"candidates": tensor}, lambda name: [tensor], {"about": json.dumps(about)})
    return path


def test_a_second_evaluation_ranks_among_the_same(tmp_path: Path, split: Split) -> None:
    drawn = candidates.draw(tmp_path / "c", split, 2, seed=4)
    found = candidates.read(tmp_path / "c", split)
    np.testing.assert_array_equal(found, drawn)
    assert found.shape == (len(split.test), 2) and (candidates.draw(tmp_path / "d", split, 2, seed=5) != drawn).any()

    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        return np.tile(np.arange(split.data.count + 1, dtype=np.float32), (len(histories), 1))

    first, second = (sampled_ranking(split, score, each) for each in (drawn, found))
    np.testing.assert_array_equal(first.ranks, second.ranks)
    assert first.protocol == second.protocol == f"SAMPLED: among 2 fixed candidates ({digest_of(drawn)[:12]})"


def test_drawn_once(tmp_path: Path, split: Split) -> None:
    candidates.draw(tmp_path / "c", split, 2)
    with pytest.raises(UsageError, match="exists"):
        candidates.draw(tmp_path / "c", split, 2)
    with pytest.raises(DataError, match="0 candidates"):
        candidates.draw(tmp_path / "d", split, 0)
    assert not (tmp_path / "d").exists()


def test_other_data_splits_and_stages_are_refused(tmp_path: Path, cycles: Sequences, split: Split) -> None:
    candidates.draw(tmp_path / "c", split, 2)
    other = Sequences("other", cycles.offsets, np.roll(cycles.items, 1), cycles.count, cycles.times)
    with pytest.raises(DataError, match="drawn for the test of leave-one-out"):
        candidates.read(tmp_path / "c", leave_one_out(other))
    with pytest.raises(DataError, match="drawn for"):
        candidates.read(tmp_path / "c", last_events(cycles, 1))
    with pytest.raises(DataError, match="drawn for"):
        candidates.read(tmp_path / "c", split, "validation")


def test_what_can_be_no_candidate_is_refused(tmp_path: Path, split: Split) -> None:
    good = candidates.draw(tmp_path / "c", split, 2)
    np.testing.assert_array_equal(candidates.read(forged(tmp_path / "good", split, good), split), good)
    right = split.data.items[split.test.at]
    for name, column in (
        ("zero", np.zeros_like(right)),
        ("large", right * 0 + 13),
        ("target", right),
        ("twice", good[:, 1]),
    ):
        bad = good.copy()
        bad[:, 0] = column
        with pytest.raises(DataError, match="no candidate"):
            candidates.read(forged(tmp_path / name, split, bad), split)
    for name, found in (
        ("rows", good[:-1]),
        ("flat", good[:, 0]),
        ("none", good[:, :0]),
        ("type", good.astype(np.int32)),
    ):
        with pytest.raises(DataError, match="no candidates for"):
            candidates.read(forged(tmp_path / name, split, np.ascontiguousarray(found)), split)
    with pytest.raises(DataError, match="digest"):
        candidates.read(forged(tmp_path / "digest", split, good, candidates="0" * 64), split)
    data = (tmp_path / "c").read_bytes()
    for name, text in (("short", data[:-1]), ("empty", b""), ("words", data.replace(b"about", b"other"))):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError):
            candidates.read(tmp_path / name, split)
    with pytest.raises(DataError):
        candidates.read(tmp_path / "missing", split)


def test_times_are_handed_over(cycles: Sequences, split: Split) -> None:
    """A model that reads times ranks among candidates as it ranks among all."""
    seen: list[int] = []

    def score(histories: Sequence[Ints], times: Sequence[Ints | None]) -> npt.NDArray[np.float32]:
        seen.extend(len(one) for one in times if one is not None)
        return np.zeros((len(histories), cycles.count + 1), np.float32)

    drawn = np.tile(np.array([[1, 2]]), (len(split.test), 1))
    sampled_ranking(split, score, drawn, timed=True)
    once = list(seen)
    full_ranking(split, score, timed=True)
    assert once and seen == once * 2
