"""`Sequences`: what every user did, in order. Items are numbered from 1; 0 pads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataError, UsageError

Ints = npt.NDArray[np.int64]
MAX_ITEMS = 2**24
MAX_NAME = 100  # characters of a user's or an item's: an array of texts is as wide as the longest


@dataclass(frozen=True)
class Sequences:
    """Events of all users, one user after the other.

    Attributes:
        name: what the data set is called.
        offsets: int64 (users + 1,): the events of user u stand at offsets[u] .. offsets[u + 1].
        items: int64 (events,), 1 .. `count`.
        count: number of items.
        times: int64 (events,), seconds, rising for every user; None where only the order is known.
        titles: a text for every item, that of item i at i - 1; empty where there are none.
        validated: bool (users,): whose next-to-last event may stand for validation; None: everybody's.
        licence: the terms the data comes under.
    """

    name: str
    offsets: Ints
    items: Ints
    count: int
    times: Ints | None = None
    titles: tuple[str, ...] = ()
    validated: npt.NDArray[np.bool_] | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not a data set.

        Raises:
            DataError: offsets that do not rise, items out of range, arrays of other lengths, times that fall.
        """
        offsets, events = self.offsets, len(self.items)
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != events or bool((np.diff(offsets) < 0).any()):
            raise _bad(self.name, "offsets do not divide the events among users")
        if not 0 < self.count <= MAX_ITEMS or (events and not 1 <= self.items.min() <= self.items.max() <= self.count):
            raise _bad(self.name, f"items must lie between 1 and {self.count}")
        if len(self.titles) not in (0, self.count):
            raise _bad(self.name, f"{len(self.titles)} titles for {self.count} items")
        if self.validated is not None and len(self.validated) != self.users:
            raise _bad(self.name, "validated has not one flag a user")
        if self.times is not None:
            inner = np.ones(max(0, events - 1), bool)
            inner[offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < events)] - 1] = False
            if len(self.times) != events or bool((np.diff(self.times)[inner] < 0).any()):
                raise _bad(self.name, "times must be one an event and rise for every user")

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Events of every user, int64 (users,)."""
        return np.diff(self.offsets)

    def of(self, user: int) -> Ints:
        """The items of a user, in order."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all events: which data a result was measured on."""
        digest = hashlib.sha256(f"{self.count}".encode())
        flags = None if self.validated is None else self.validated.astype("<i8")
        for array in (self.offsets, self.items, self.times, flags):
            digest.update(b"-" if array is None else np.ascontiguousarray(array, "<i8").tobytes())
        return digest.hexdigest()

    @property
    def tied(self) -> float:
        """Share of events with the same time as the event before them by the same user: their order means nothing."""
        if self.times is None or not len(self.items):
            return 0.0
        same = np.diff(self.times) == 0
        user = np.repeat(np.arange(self.users), self.lengths)
        return float((same & (np.diff(user) == 0)).sum() / len(self.items))


def check_items(history: Sequence[int], count: int) -> None:
    """Hold a history to the items there are; 0 pads and is none.

    Raises:
        UsageError: an item that lies outside.
    """
    if len(history) and not 1 <= min(history) <= max(history) <= count:
        raise UsageError(f"items lie between 1 and {count}", hint="give numbers or titles of the data set")


def sequences(
    name: str,
    users: Sequence[str],
    items: Sequence[str],
    times: Sequence[int],
    *,
    core: int = 0,
    titles: dict[str, str] | None = None,
    licence: str = "",
) -> Sequences:
    """Sequences from a log of events in any order.

    Args:
        name: what the data set is called.
        users, items, times: user, item and time of every event; events of equal user and time stay in the order given.
        core: leave out users and items with fewer events, again and again until all have as many.
        titles: a text by item.
        licence: the terms of the data.

    Raises:
        DataError: lists of unequal lengths, a name longer than `MAX_NAME`, or nothing is left.
    """
    if not len(users) == len(items) == len(times):
        raise _bad(name, "users, items and times differ in length")
    if max((len(text) for column in (users, items) for text in column), default=0) > MAX_NAME:
        raise _bad(name, f"a user or an item of more than {MAX_NAME} characters")
    user_of, item_of = (np.unique(np.asarray(column, dtype=str), return_inverse=True) for column in (users, items))
    user, item, time = user_of[1].astype(np.int64), item_of[1].astype(np.int64), np.asarray(times, np.int64)
    keep = _core(user, item, core)
    if not keep.any():
        raise _bad(name, f"no event is left at {core} events a user and item")
    user, item, time = user[keep], item[keep], time[keep]
    order = np.lexsort((np.arange(len(user)), time, user))
    kept_items, item = np.unique(item[order], return_inverse=True)
    counts = np.unique(user[order], return_counts=True)[1]
    texts = tuple(titles.get(item_of[0][i], item_of[0][i]) for i in kept_items) if titles is not None else ()
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sequences(name, offsets, item.astype(np.int64) + 1, len(kept_items), time[order], texts, None, licence)


def _core(user: Ints, item: Ints, core: int) -> npt.NDArray[np.bool_]:
    """The events that are left when all users and items have at least `core` of them: a fixed point."""
    keep = np.ones(len(user), bool)
    while True:
        enough = keep.copy()
        for column in (user, item):
            enough &= np.bincount(column[keep], minlength=int(column.max(initial=0)) + 1)[column] >= core
        if (enough == keep).all():
            return keep
        keep = enough


def _bad(name: str, what: str) -> DataError:
    return DataError(f"data set {name!r}: {what}", hint="fetch it again: tailorbird data get")
