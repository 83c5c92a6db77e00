"""Axes: where a value stands, and which values deserve a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LARGEST = 1e150
_STEPS = [(1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)]


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to pixels from `start` to `end`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel at which `value` stands; with a logarithmic scale it must be positive."""
        low, high, at = self.low, self.high, _bounded(value, log=self.log)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round values inside the range."""
        return _log_ticks(self.low, self.high, count) if self.log else _even_ticks(self.low, self.high, count)


def fit(values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.06) -> Scale:
    """A scale that holds `values` and a little more on both sides; a single value stands in the middle."""
    known = [value for value in values if not log or value > 0] or [1.0]
    low, high = _bounded(min(known), log=log), _bounded(max(known), log=log)
    if log:
        room = max((high / low) ** margin, 1.02)
        return Scale(low / room, high * room, start, end, log=True)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def _bounded(value: float, *, log: bool) -> float:
    """Kept so far from the ends of the number range that nothing overflows."""
    return min(max(value, 1 / _LARGEST if log else -_LARGEST), _LARGEST)


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    best: list[float] = []
    for factors in _STEPS:
        found = [
            factor * 10.0**power
            for power in range(first, last + 1)
            for factor in factors
            if low <= factor * 10.0**power <= high
        ]
        if len(found) > count + 2:
            break
        best = found
    if not best:  # more decades than there is room for
        every = math.ceil((last - first) / count)
        best = [10.0**power for power in range(first, last + 1, every) if low <= 10.0**power <= high]
    return best if len(best) >= 3 else [tick for tick in _even_ticks(low, high, count) if tick > 0]


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to `wanted` as can be with at least `gap` between them, inside [low, high]."""
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [0.0] * len(wanted)
    at = low - gap
    for index in order:
        at = places[index] = max(wanted[index], at + gap)
    limit = high + gap
    for index in reversed(order):
        limit = places[index] = min(places[index], limit - gap)
    return places
