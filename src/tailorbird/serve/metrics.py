"""Counters and histograms in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Counter:
    """A number that grows, one for every value of its labels."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, by: int = 1) -> None:
        """Count."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self.name, self.text, "counter")
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            named = ",".join(f'{name}="{label}"' for name, label in zip(self.labels, labels, strict=True))
            yield f"{self.name}{{{named}}} {value}" if named else f"{self.name} {value}"


class Gauge:
    """A number as it is when somebody asks."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self.read = name, text, read

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self.name, self.text, "gauge")
        yield f"{self.name} {self.read()}"


class Histogram:
    """How often something took how many seconds."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        with self._lock:
            self._counts[bisect_left(_BUCKETS, seconds)] += 1
            self._sum += seconds

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self.name, self.text, "histogram")
        with self._lock:
            up_to, total = list(accumulate(self._counts)), self._sum
        for limit, count in zip((*_BUCKETS, "+Inf"), up_to, strict=True):
            yield f'{self.name}_bucket{{le="{limit}"}} {count}'
        yield f"{self.name}_sum {total}"
        yield f"{self.name}_count {up_to[-1]}"


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self.requests = Counter("tailorbird_requests_total", "Answers by path and HTTP status.", "path", "status")
        self.tokens = Counter("tailorbird_tokens_total", "Tokens read and written.", "kind")
        self.cancelled = Counter("tailorbird_cancelled_total", "Requests whose client went away.")
        self.token_seconds = Histogram("tailorbird_token_seconds", "Work on one token after the first of an answer.")
        self.first_token_seconds = Histogram(
            "tailorbird_first_token_seconds", "From a request's arrival to the first token of its answer."
        )
        self.gauges: list[Gauge] = []

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        every: tuple[Counter | Histogram | Gauge, ...] = (
            self.requests,
            self.tokens,
            self.cancelled,
            self.token_seconds,
            self.first_token_seconds,
            *self.gauges,
        )
        return "\n".join(line for metric in every for line in metric.lines()) + "\n"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
