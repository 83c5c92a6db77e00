"""When a device asks for new parameters: scores by device, one threshold for all, and streams replayed under it.

A policy sees what a device has for free: its state now, its state at the last request, and how many events lie between.
It never sees what comes next. A device asks where its score is above the threshold; the threshold is calibrated on a
validation stream so that the share of events with a request keeps a budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.tailor.manifest import Floats

Ints = npt.NDArray[np.int64]
NEVER, ALWAYS = np.inf, -np.inf


@dataclass(frozen=True)
class Situation:
    """What devices know at one event, a row each.

    Attributes:
        now: (devices, width): the state before the event.
        then: likewise, at the last request.
        since: (devices,): events since that request.
        drawn: (devices,): random numbers of the device, 0 to 1.
    """

    now: Floats
    then: Floats
    since: Ints
    drawn: Floats


Requester = Callable[[Situation], Floats]


def every(situation: Situation) -> Floats:
    """Events since the last request: a threshold of n - 1 asks every n events."""
    return situation.since.astype(np.float32)


def drift(situation: Situation) -> Floats:
    """How far the state has turned since the last request: 1 - cosine."""
    dots = (situation.now * situation.then).sum(1)
    norms = np.linalg.norm(situation.now, axis=1) * np.linalg.norm(situation.then, axis=1)
    found: Floats = (1 - dots / np.maximum(norms, 1e-12)).astype(np.float32)
    return found


def budgeted_random(situation: Situation) -> Floats:
    """Whoever the dice choose: what a learned policy has to beat at the same rate."""
    return situation.drawn


POLICIES: dict[str, Requester] = {"every": every, "drift": drift, "random": budgeted_random}


def replay(states: Floats, requester: Requester, threshold: float, seed: int = 0) -> Ints:
    """Whose parameters every device uses at every event. All start with parameters made at their first event.

    Args:
        states: (devices, events, width), before every event.
        requester: its scores.
        threshold: a device asks where its score is above it.
        seed: of the random numbers.

    Returns:
        int64 (devices, events): the event at which the parameters in use were asked for; a request is where it
        is the event itself, the first one apart.
    """
    devices, events, _ = states.shape
    drawn = np.random.default_rng(seed).random((devices, events)).astype(np.float32)
    used = np.zeros((devices, events), np.int64)
    rows = np.arange(devices)
    for event in range(1, events):
        last = used[:, event - 1]
        seen = Situation(states[:, event], states[rows, last], event - last, drawn[:, event])
        asks = _scored(requester, seen) > threshold
        used[:, event] = np.where(asks, event, last)
    return used


def diced(devices: int, events: int, requests: int, seed: int = 0) -> Ints:
    """What `replay` returns for dice that ask exactly so often in all: what has to be beaten at the same rate.

    Args:
        devices: of a stream.
        events: of each.
        requests: of all devices, at any event but the first.
        seed: of the dice.

    Raises:
        UsageError: more requests than events.
    """
    asks = np.zeros(devices * (events - 1), np.int64)
    if not 0 <= requests <= len(asks):
        raise UsageError(f"{requests} requests at {len(asks)} events", hint="one an event at most")
    asks[np.random.default_rng(seed).permutation(len(asks))[:requests]] = 1
    used = np.zeros((devices, events), np.int64)
    used[:, 1:] = asks.reshape(devices, -1) * np.arange(1, events)
    found: Ints = np.maximum.accumulate(used, axis=1)
    return found


def rate(used: Ints) -> float:
    """Requests by event, the first event apart."""
    return float((used[:, 1:] == np.arange(1, used.shape[1])).mean())


def check_budget(budget: float) -> None:
    """Refuse a budget that is no share.

    Raises:
        UsageError: it lies outside 0 to 1.
    """
    if not 0 <= budget <= 1:
        raise UsageError(f"a budget of {budget}", hint="a share from 0 to 1")


def calibrate(states: Floats, requester: Requester, budget: float, seed: int = 0) -> float:
    """The lowest threshold whose rate on a stream keeps a budget.

    Args:
        states: of the validation stream.
        requester: its scores.
        budget: share of events with a request; 0 is never, 1 always.
        seed: of the random numbers; another than the test's.

    Raises:
        UsageError: a budget that is no share, or a stream of one event.
    """
    check_budget(budget)
    if states.shape[1] < 2:
        raise UsageError(f"a stream of {states.shape[1]} events", hint="two events or more")
    if budget in (0, 1):
        return ALWAYS if budget else NEVER
    candidates = _thresholds(states, requester, seed)
    low, high = 0, len(candidates) - 1  # the last is never
    while low < high:
        middle = (low + high) // 2
        if rate(replay(states, requester, float(candidates[middle]), seed)) <= budget:
            high = middle
        else:
            low = middle + 1
    return float(candidates[high])


def _thresholds(states: Floats, requester: Requester, seed: int) -> npt.NDArray[np.float64]:
    """Scores that occur between two events of a device, rising, and above them never."""
    devices, events, _ = states.shape
    drawn = np.random.default_rng([seed, 1]).random((devices, events)).astype(np.float32)
    found = [
        _scored(requester, Situation(states[:, now], states[:, then], np.full(devices, now - then), drawn[:, now]))
        for now in range(1, events)
        for then in range(now)
    ]
    return np.append(np.unique(np.concatenate(found)).astype(np.float64), NEVER)


def _scored(requester: Requester, seen: Situation) -> Floats:
    scores = requester(seen)
    if scores.shape != seen.since.shape or np.isnan(scores).any():
        raise UsageError(f"a policy scored {scores.shape}", hint="one number a device")
    return scores
