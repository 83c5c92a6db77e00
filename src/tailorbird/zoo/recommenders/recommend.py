"""Recommending: the best items that follow a history, by title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import check_items
from tailorbird.zoo.recommenders.model import Recommender


@dataclass(frozen=True)
class Recommendation:
    """An item, its title and its score."""

    item: int
    title: str
    score: float


def recommend(
    model: Recommender, titles: Sequence[str], history: Sequence[int], count: int = 10, *, seen: bool = False
) -> list[Recommendation]:
    """The `count` best items that follow a history of items, oldest first; those of the history only if `seen`.

    Raises:
        UsageError: an item that is none of the model's, or fewer than one asked for.
    """
    check_items(history, model.shape.items)
    return best(model.score([np.asarray(history, np.int64)])[0], titles, [] if seen else history, count)


def best(
    scores: npt.NDArray[np.float32], titles: Sequence[str], history: Sequence[int], count: int
) -> list[Recommendation]:
    """The `count` items with the best scores, of (items + 1,); none of the history, and never the pad.

    Raises:
        UsageError: fewer than one asked for.
    """
    if count < 1:
        raise UsageError(f"{count} items", hint="ask for 1 or more")
    scores = np.array(scores)
    scores[[0, *history]] = -np.inf
    found = [int(item) for item in np.argsort(-scores, kind="stable")[:count] if np.isfinite(scores[item])]
    return [Recommendation(item, titles[item - 1] if titles else f"item {item}", float(scores[item])) for item in found]


def items_named(words: Sequence[str], titles: Sequence[str]) -> list[int]:
    """Items by number or by title; a part of a title will do where only one has it, capitals or not.

    Raises:
        UsageError: no title, or several, have those words.
    """
    found = []
    for word in words:
        if word.strip().isdecimal() and len(word) < 20:  # more digits are no number of an item
            found.append(int(word))
            continue
        same = [i for i, title in enumerate(titles, 1) if title.casefold() == word.casefold()]
        like = same or [i for i, title in enumerate(titles, 1) if word.casefold() in title.casefold()]
        if len(like) != 1:
            some = "; ".join(titles[i - 1] for i in like[:5])
            raise UsageError(
                f"{word!r} is the title of {len(like)} items", hint=f"which of: {some}" if like else "give a number"
            )
        found.append(like[0])
    return found
