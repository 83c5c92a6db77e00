"""Figures from ranks and from labelled scores, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataError
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.ranking import Ranks
from tailorbird.tasks.sequences.split import Split

Floats = npt.NDArray[np.float64]
CUTS = (5, 10, 20)
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean over users and where it lies at 95 %, from users drawn again with repetition."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as ``0.1034 [0.0988, 0.1079]``."""
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def hit(ranks: Ints, k: int) -> Floats:
    """1 where the right item is among the first k."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: Ints, k: int) -> Floats:
    """1 / log2(rank + 2) where the rank, from 0, is below k, else 0: one right item, so the ideal is 1."""
    return np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)


def reciprocal(ranks: Ints) -> Floats:
    """1 / (rank + 1)."""
    return 1 / (ranks + 1.0)


def beaten(ranks: Ranks) -> Floats:
    """The AUC of every case: the share of the other candidates that stand below the right item, (cases,). A tie is not
    below, and items of the history that were left out are no candidates."""
    return 1 - np.minimum(ranks.ranks, ranks.others) / np.maximum(ranks.others, 1)


def per_user(values: Floats, users: Ints) -> Floats:
    """Mean value of every user that has one, in the order of the users: a user counts once, however many cases."""
    counts, sums = np.bincount(users), np.bincount(users, values)
    return sums[counts > 0] / counts[counts > 0]


def interval(values: Floats, seed: int = 0, weights: Ints | None = None) -> Interval:
    """Mean of independent values, one a user, and its bootstrap interval.

    Args:
        values: (users,).
        seed: of the draws.
        weights: (users,): how often each counts, such as its cases; once by default.

    Raises:
        DataError: there are none.
    """
    if not len(values):
        raise DataError("no user to take a mean over", hint="a larger data set, or other groups")
    random = np.random.default_rng(seed)

    def mean(some: Any = slice(None)) -> float:
        return float(np.average(values[some], weights=None if weights is None else weights[some]))

    means = [mean(random.integers(0, len(values), len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean(), float(low), float(high))


def summary(ranks: Ranks, split: Split, seed: int = 0) -> dict[str, Interval | float]:
    """All figures of a ranking: hr@k, ndcg@k, mrr, auc and user auc, coverage@10 (share of the catalogue that is ever
    among the first ten), and hr@10 and ndcg@10 of the users with the shortest and the longest histories (a fifth each).

    A user counts once in all of them but auc, the mean of `beaten` over cases; user auc is that of users' own means."""
    users = ranks.cases.user
    found: dict[str, Interval | float] = {}
    for k in CUTS:
        found[f"hr@{k}"] = interval(per_user(hit(ranks.ranks, k), users), seed)
        found[f"ndcg@{k}"] = interval(per_user(ndcg(ranks.ranks, k), users), seed)
    found["mrr"] = interval(per_user(reciprocal(ranks.ranks), users), seed)
    won, cases = per_user(beaten(ranks), users), np.bincount(users)
    found["auc"] = interval(won, seed, cases[cases > 0])
    found["user auc"] = interval(won, seed)
    found["coverage@10"] = len(np.unique(ranks.top)) / split.data.count
    for name, mine in groups(ranks, split).items():
        chosen = ranks.ranks[mine], users[mine]
        found[f"hr@10 {name}"] = interval(per_user(hit(chosen[0], 10), chosen[1]), seed)
        found[f"ndcg@10 {name}"] = interval(per_user(ndcg(chosen[0], 10), chosen[1]), seed)
    return found


def groups(ranks: Ranks, split: Split) -> Mapping[str, npt.NDArray[np.bool_]]:
    """The cases of tail users (the fifth with the shortest histories) and of head users (the longest)."""
    return by_length(ranks.cases.at - split.data.offsets[ranks.cases.user])


def by_length(length: Ints) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Of histories of so many events: the fifth of the shortest, tail users, and of the longest, head users."""
    short, long = np.quantile(length, [0.2, 0.8])
    return {"tail users": length <= short, "head users": length >= long}


def paired(ours: Floats, theirs: Floats, seed: int = 0, draws: int = 10_000) -> float:
    """Two-sided p-value that two systems differ on the same users: signs of the differences flipped at random.

    Raises:
        DataError: not the same users.
    """
    if ours.shape != theirs.shape or not len(ours):
        raise DataError(f"{ours.shape} and {theirs.shape} values", hint="measure both on the same cases")
    differences = ours - theirs
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    random, seen = np.random.default_rng(seed), abs(moved.sum())
    sums = np.array([abs((moved * random.choice((-1.0, 1.0), len(moved))).sum()) for _ in range(draws)])
    return float((1 + (sums >= seen - 1e-12).sum()) / (1 + draws))


def auc(labels: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve; a tie counts half.

    Raises:
        DataError: one class only, or a score that is no number.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    if not positive or not negative or np.isnan(scores).any():
        raise DataError("AUC needs both classes and numbers", hint="leave out groups of one class")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # from 1, equals share theirs
    return float((rank[place][labels].sum() - positive * (positive + 1) / 2) / (positive * negative))
