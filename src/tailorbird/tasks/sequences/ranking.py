"""The rank of the right item among all items.

Ties are broken pessimistically: an item of the same score counts as better, so that a scorer of constants is last. A
score that is no number counts as the worst there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataError
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Cases, Split, Stage

Scorer = Callable[..., npt.NDArray[np.float32]]  # from histories, and their times where they are asked for
TOP = 10
BATCH = 256


@dataclass(frozen=True)
class Ranks:
    """Ranks of the right items, and what was at the top.

    Attributes:
        cases: what was predicted.
        ranks: int64 (cases,), from 0.
        top: int64 (cases, at most `TOP`): the best items, best first.
        candidates: items each right one stood among, itself included.
        others: int64 (cases,): how many of them it had to beat; items of the history that were left out are none.
        protocol: how they were ranked, in words.
    """

    cases: Cases
    ranks: Ints
    top: Ints
    candidates: int
    others: Ints
    protocol: str


def full_ranking(
    split: Split, score: Scorer, stage: Stage = "test", *, seen: bool = False, timed: bool = False
) -> Ranks:
    """Rank every item of the catalogue.

    Args:
        split: the data.
        score: from a batch of histories (items, oldest first) to float32 (batch, items + 1); column 0 is the pad's and
            is not looked at.
        stage: what is predicted.
        seen: let items of the history be recommended again. By default they are left out, except the right one.
        timed: hand over the times of every history too, seconds; None for a data set without.

    Raises:
        DataError: scores of another shape.
    """
    cases, ranks, best = split.cases(stage), [], []
    others = np.full(len(cases), split.data.count - 1)
    for start, histories, targets, scores in _scored(split, score, cases, timed=timed):
        right = scores[np.arange(len(targets)), targets]
        if not seen:
            for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
                met = np.unique(history)
                scores[row, met] = -np.inf
                others[start + row] -= len(met) - (target in met)
        scores[np.arange(len(targets)), targets] = right
        ranks.append(pessimistic(scores, targets))
        best.append(_top(scores))
    words = f"full ranking of {split.data.count} items, {'with' if seen else 'without'} items of the history"
    return Ranks(cases, np.concatenate(ranks), np.concatenate(best), split.data.count, others, words)


def sampled_ranking(
    split: Split, score: Scorer, candidates: Ints, stage: Stage = "test", *, timed: bool = False
) -> Ranks:
    """Rank the right item among given others: figures are far above those of a full ranking and must never stand
    beside them.

    Args:
        split: the data.
        score: as in `full_ranking`.
        candidates: int64 (cases, n), drawn once and kept (see `candidates`).
        stage, timed: as in `full_ranking`.

    Raises:
        DataError: not one row of candidates a case.
    """
    cases, ranks, best = split.cases(stage), [], []
    if candidates.shape[:1] != (len(cases),):
        raise DataError(f"candidates for {candidates.shape[:1]} of {len(cases)} cases", hint="draw them for this split")
    for start, _, targets, scores in _scored(split, score, cases, timed=timed):
        among = np.concatenate([targets[:, None], candidates[start : start + BATCH]], axis=1)
        few = np.take_along_axis(scores, among, axis=1)
        ranks.append(_above(few[:, 1:], few[:, :1]))
        best.append(np.take_along_axis(among, np.argsort(-few, axis=1, kind="stable")[:, :TOP], axis=1))
    words = f"SAMPLED: among {candidates.shape[1]} fixed candidates ({digest_of(candidates)[:12]})"
    others = np.full(len(cases), candidates.shape[1])
    return Ranks(cases, np.concatenate(ranks), np.concatenate(best), candidates.shape[1] + 1, others, words)


def digest_of(candidates: Ints) -> str:
    """SHA-256: which candidates a result was measured among."""
    return hashlib.sha256(np.ascontiguousarray(candidates, "<i8").tobytes()).hexdigest()


def draw_candidates(split: Split, count: int, seed: int, stage: Stage = "test") -> Ints:
    """`count` items a case that its user never met, uniform, without repetition; int64 (cases, count).

    Raises:
        DataError: a user has met too many items for that.
    """
    cases, random = split.cases(stage), np.random.default_rng(seed)
    out = np.empty((len(cases), count), np.int64)
    for i, user in enumerate(cases.user):
        free = np.setdiff1d(np.arange(1, split.data.count + 1), split.data.of(int(user)), assume_unique=False)
        if len(free) < count:
            raise DataError(f"user {user} leaves {len(free)} items to draw {count} from", hint="draw fewer")
        out[i] = random.choice(free, count, replace=False)
    return out


def _scored(
    split: Split, score: Scorer, cases: Cases, *, timed: bool
) -> Iterator[tuple[int, list[Ints], Ints, npt.NDArray[np.float32]]]:
    """Some cases at a time: where they begin, their histories, the right items, and scores (batch, items + 1)."""
    for start in range(0, len(cases), BATCH):
        users, ends = cases.user[start : start + BATCH], cases.at[start : start + BATCH]
        histories = [split.history(int(user), int(at)) for user, at in zip(users, ends, strict=True)]
        known = [split.moments(int(user), int(at)) for user, at in zip(users, ends, strict=True)] if timed else None
        found = score(histories) if known is None else score(histories, known)
        yield start, histories, split.data.items[ends], _checked(found, len(histories), split.data.count)


def pessimistic(scores: npt.NDArray[np.float32], targets: Ints) -> Ints:
    """Rank from 0 of every target among columns 1 and up, equals counting as better; scores (cases, items + 1)."""
    right = np.take_along_axis(scores, targets[:, None], axis=1)
    return _above(scores[:, 1:], right) - 1  # the right one was counted too


def _above(others: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Ints:
    worst = np.isnan(right[:, 0])
    counted = (others >= right).sum(axis=1).astype(np.int64)
    found: Ints = np.where(worst, others.shape[1], counted)
    return found


def _top(scores: npt.NDArray[np.float32]) -> Ints:
    known = np.where(np.isnan(scores[:, 1:]), -np.inf, scores[:, 1:])
    count = min(TOP, known.shape[1])
    some = np.argpartition(-known, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(known, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1).astype(np.int64) + 1


def _checked(scores: npt.NDArray[np.float32], cases: int, items: int) -> npt.NDArray[np.float32]:
    if scores.shape != (cases, items + 1):
        raise DataError(
            f"scores are {scores.shape}, wanted {(cases, items + 1)}", hint="one score an item, the pad's first"
        )
    return np.array(scores, np.float32)  # a copy: what was seen is struck out in it
