"""Scorers that learn nothing but counts: what every model has to beat, and what a leak would lift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.ranking import Scorer
from tailorbird.tasks.sequences.split import Split


def popularity(split: Split) -> Scorer:
    """How often an item occurs in training, the same for everybody."""
    counts = _counts(split)

    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        return np.repeat(counts[None], len(histories), axis=0)

    return score


def markov(split: Split) -> Scorer:
    """How often an item followed the last one in training; popularity decides among the others."""
    count = split.data.count
    pairs = [split.train(user) for user in range(split.data.users)]
    before = np.concatenate([p[:-1] for p in pairs])
    after = np.concatenate([p[1:] for p in pairs])
    table = csr_matrix((np.ones(len(before), np.float32), (before, after)), shape=(count + 1, count + 1))
    usual = _counts(split)
    usual = usual / (usual.max() + 1)

    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        last = np.array([history[-1] if len(history) else 0 for history in histories])
        return np.asarray(table[last].toarray() + usual, np.float32)

    return score


def _counts(split: Split) -> npt.NDArray[np.float32]:
    train = np.concatenate([split.train(user) for user in range(split.data.users)])
    return np.bincount(train, minlength=split.data.count + 1).astype(np.float32)
