"""Vectors of items before anything is trained, like items near each other: from the events around them, from text."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import svds

from tailorbird.errors import DataError
from tailorbird.tasks.sequences.split import Split

Floats = npt.NDArray[np.float32]
Vectors = Literal["events", "text", "both"]
WINDOW = 5  # events on either side that an item is seen with


def item_vectors(split: Split, kind: Vectors, width: int = 64) -> Floats:
    """A vector an item, that of item i at i - 1; float32 (items, width), or (items, 2 * width) for both.

    Args:
        split: the data; only its training events are read.
        kind: ``events``: items that stand near each other in training; ``text``: words of their titles; ``both``:
            the two side by side, each of length one.
        width: numbers a kind; where the data holds fewer dimensions, the rest is zero.

    Raises:
        DataError: text of a data set without titles.
    """
    if kind != "events" and not split.data.titles:
        raise DataError(f"data set {split.data.name!r} has no titles", hint="take vectors=events")
    found = [make(split, width) for name, make in (("events", _events), ("text", _text)) if kind in (name, "both")]
    return np.concatenate(found, axis=1)


def _events(split: Split, width: int) -> Floats:
    """Positive pointwise mutual information of items within `WINDOW` events, weighted by 1 / distance; its SVD."""
    items = [split.train(user) - 1 for user in range(split.data.users)]
    pairs = [(run[:-d], run[d:], d) for d in range(1, WINDOW + 1) for run in items]
    one, other = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    weight = np.concatenate([np.full(len(first), 1 / d) for first, _, d in pairs])
    count = split.data.count
    near = csr_matrix((weight, (one, other)), shape=(count, count))
    near = (near + near.T).tocoo()
    total = np.asarray(near.sum(axis=1)).ravel()
    expected = total[near.row] * total[near.col] / total.sum()
    near.data = np.log(near.data / expected).clip(0)
    return _decomposed(near.tocsr(), width)


def _text(split: Split, width: int) -> Floats:
    """Words of the titles, rare ones weighing more (tf-idf); their SVD."""
    words = [re.findall(r"\w+", title.casefold()) for title in split.data.titles]
    number = {word: n for n, word in enumerate(sorted({word for some in words for word in some}))}
    rows = np.repeat(np.arange(len(words)), [len(some) for some in words])
    columns = np.array([number[word] for some in words for word in some], np.int64)
    table = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(words), max(1, len(number))))
    seen = np.bincount(table.indices, minlength=table.shape[1]).clip(1)
    return _decomposed(table @ diags(np.log(len(words) / seen) + 1), width)


def _decomposed(table: csr_matrix, width: int) -> Floats:
    """Rows of a table as vectors of at most length one: its leading left singular vectors, scaled."""
    rank, out = min(width, min(table.shape) - 1), np.zeros((table.shape[0], width), np.float32)
    if rank < 1 or not table.nnz:
        return out
    left, values, _ = svds(table.astype(np.float64), k=rank, v0=np.ones(min(table.shape)))
    found = (left * np.sqrt(values.clip(0)))[:, ::-1]
    length = np.linalg.norm(found, axis=1, keepdims=True)
    out[:, :rank] = np.divide(found, length, out=np.zeros_like(found), where=length > 1e-9)
    return out
