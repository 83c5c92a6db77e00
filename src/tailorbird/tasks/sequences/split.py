"""What is predicted from what: leave-one-out, streams of the last events, and a split by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tailorbird.errors import DataError
from tailorbird.tasks.sequences.dataset import Ints, Sequences

Stage = Literal["validation", "test"]


@dataclass(frozen=True)
class Cases:
    """Predictions to make: the event at `at[i]` from the user's events before it.

    Attributes:
        user: int64 (cases,).
        at: int64 (cases,): place of the event that is predicted among all events.
    """

    user: Ints
    at: Ints

    def __len__(self) -> int:
        """How many."""
        return len(self.at)


@dataclass(frozen=True)
class Split:
    """A data set divided for training, validation and test.

    Attributes:
        data: all of it.
        name: ``leave-one-out``, ``time`` or ``last-COUNT``.
        train_end: int64 (users,): training may read the events of user u before train_end[u].
        validation, test: what is predicted. A test history holds the validation events: they lie before it.
    """

    data: Sequences
    name: str
    train_end: Ints
    validation: Cases
    test: Cases

    def cases(self, stage: Stage) -> Cases:
        """What is predicted at a stage."""
        return self.validation if stage == "validation" else self.test

    def history(self, user: int, at: int) -> Ints:
        """The items before an event of a user."""
        return self.data.items[self.data.offsets[user] : at]

    def moments(self, user: int, at: int) -> Ints | None:
        """The times of `history`; None where only the order is known."""
        return None if self.data.times is None else self.data.times[self.data.offsets[user] : at]

    def train(self, user: int) -> Ints:
        """The items of a user that training may read."""
        return self.data.items[self.data.offsets[user] : self.train_end[user]]


def leave_one_out(data: Sequences) -> Split:
    """The last event of every user is the test, the one before it validation; users of fewer than three events only
    train. Where a data set says whose events may validate, the others' next-to-last events train.

    Raises:
        DataError: no user has three events.
    """
    long = data.lengths >= 3
    if not long.any():
        raise DataError(f"data set {data.name!r} has no user of three events", hint="choose a data set of sequences")
    users = np.arange(data.users)
    validated = long if data.validated is None else long & data.validated
    last = data.offsets[1:] - 1
    train_end = np.where(validated, last - 1, np.where(long, last, last + 1))
    return Split(
        data, "leave-one-out", train_end,
        Cases(users[validated], last[validated] - 1), Cases(users[long], last[long]),
    )  # fmt: skip


def last_events(data: Sequences, count: int = 10) -> Split:
    """Streams of one length: the last `count` events of every user are the test, the `count` before them validation.
    Users of fewer than 3 * `count` events only train.

    Raises:
        DataError: no user has as many.
    """
    long = np.flatnonzero(data.lengths >= 3 * count)
    if count < 1 or not len(long):
        raise DataError(
            f"data set {data.name!r} has no user of {3 * count} events", hint="shorter streams, at least of one event"
        )
    train_end = data.offsets[1:].copy()
    train_end[long] -= 2 * count
    places = train_end[long][:, None] + np.arange(2 * count)
    found = [Cases(np.repeat(long, count), part.reshape(-1)) for part in (places[:, :count], places[:, count:])]
    return Split(data, f"last-{count}", train_end, *found)


def by_time(data: Sequences, validation: float = 0.1, test: float = 0.1) -> Split:
    """The last `test` share of all events, whoever made them, is the test, and the share before it validation: no
    model sees the popularity of a time to come. Events without a history are not predicted.

    Raises:
        DataError: the data set has no times, or a share leaves no event to predict.
    """
    if data.times is None:
        raise DataError(f"data set {data.name!r} has no times", hint="take the split leave-one-out")
    if min(validation, test) <= 0 or validation + test >= 1:
        raise DataError(f"shares of {validation} and {test}", hint="both above 0, together below 1")
    first, second = np.quantile(data.times, [1 - validation - test, 1 - test], method="higher")
    owner = np.repeat(np.arange(data.users), data.lengths)
    has_history = np.arange(len(data.items)) > data.offsets[:-1][owner]
    train = data.times < first
    middle, late = ~train & (data.times < second) & has_history, (data.times >= second) & has_history
    if not middle.any() or not late.any():
        raise DataError(f"data set {data.name!r}: no event to predict at one of the stages", hint="larger shares")
    train_end = data.offsets[:-1] + np.bincount(owner[train], minlength=data.users)
    found = [Cases(owner[chosen], np.flatnonzero(chosen)) for chosen in (middle, late)]
    return Split(data, "time", train_end.astype(np.int64), *found)
