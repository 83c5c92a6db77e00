"""`Engine`: the one thread that runs the model, and the line of requests before it.

Requests take turns, a token each: a long answer never holds a short one up, and with iterators that costs no more code
than one after the other. The first `slots` of the line take part, because each keeps its keys and values in memory;
those behind them wait, and one that finds the line full is refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from tailorbird.runtime.completion import Completion
from tailorbird.serve.errors import Refused, refusal
from tailorbird.serve.metrics import Gauge, Metrics

_log = logging.getLogger(__name__)
_LONGEST_RETRY = 60


class Job:
    """One request: made in the server's event loop, worked on in the engine's thread.

    Attributes:
        begin: tokenizes the prompt and makes the completion; called by the engine's thread.
        completion: what `begin` made; None before.
        cancelled: nobody waits for the answer any more.
        watch: the task that looks for the client to go; kept here, because a task nobody holds may vanish.
    """

    def __init__(self, begin: Callable[[], Completion]) -> None:
        self.begin = begin
        self.completion: Completion | None = None
        self.cancelled = False
        self.watch: asyncio.Task[None] | None = None
        self.arrived = time.monotonic()
        self._pieces: Iterator[str] | None = None
        self._events: asyncio.Queue[str | Refused | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    async def pieces(self) -> AsyncIterator[str]:
        """The answer, a piece for every token; may be empty ones.

        Raises:
            Refused: the request can't be answered, or not to its end.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, Refused):
                raise event
            yield event
            await asyncio.sleep(0)  # between two pieces that wait already, the loop can see that the client went

    def step(self) -> str | None:
        """Work on one token, in the engine's thread; None at the end."""
        if self.completion is None:
            self.completion = self.begin()
            self._pieces = iter(self.completion)
        pieces = self._pieces  # another thread may take it away
        return None if pieces is None else next(pieces, None)

    def tell(self, event: str | Refused | None) -> None:
        """Hand a piece, a failure or the end to whoever waits; from any thread."""
        if event is None or isinstance(event, Refused):
            self._pieces = None  # with it go the keys and values
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Engine:
    """Runs requests.

    Attributes:
        slots: requests that take turns.
        queue: requests that may wait behind them.
        draining: no new requests are taken.
    """

    def __init__(self, slots: int, queue: int, metrics: Metrics) -> None:
        self.slots, self.queue, self.metrics = slots, queue, metrics
        self.draining = False
        self._line: list[Job] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._mean_seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="tailorbird-engine", daemon=True)
        metrics.gauges += [
            Gauge("tailorbird_running", "Requests that take turns.", lambda: min(len(self._line), slots)),
            Gauge("tailorbird_queue_depth", "Requests that wait.", lambda: max(0, len(self._line) - slots)),
        ]

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._line

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, begin: Callable[[], Completion]) -> Job:
        """Put a request into the line; from the server's event loop.

        Raises:
            Refused: the line is full, or the server is about to stop.
        """
        with self._changed:
            if self.draining:
                raise Refused(503, "the server is shutting down", code="shutting_down", retry_after=1)
            if len(self._line) >= self.slots + self.queue:
                wait = min(_LONGEST_RETRY, max(1, math.ceil(self._mean_seconds / self.slots)))
                raise Refused(429, "too many requests are waiting", code="queue_full", retry_after=wait)
            job = Job(begin)
            self._line.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Take a request whose client is gone out of the line; its slot is free at once."""
        with self._changed:
            if job not in self._line:
                return
            job.cancelled = True
            self._line.remove(job)
        self.metrics.cancelled.add()
        job.tell(None)

    def abort(self) -> None:
        """End all requests, with an error to their clients."""
        with self._changed:
            left, self._line = self._line, []
        for job in left:
            job.cancelled = True
            job.tell(Refused(503, "the server shut down before the answer was complete", code="shutting_down"))

    def stop(self) -> None:
        """End all requests and the thread; returns when the token at work is done."""
        self.draining = True
        self.abort()
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while jobs := self._turn():
            for job in jobs:
                if not job.cancelled:
                    self._step(job)

    def _turn(self) -> list[Job]:
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._stopped)
            return [] if self._stopped else self._line[: self.slots]

    def _step(self, job: Job) -> None:
        begun, start = job.completion, time.monotonic()
        before = begun.tokens if begun else 0
        try:
            piece = job.step()
        except BaseException as error:  # it ends this request and no other; a panic inside a library is no Exception
            if (told := refusal(error)).status == 500:
                _log.exception("a request failed")
            self._end(job, told)
            return
        assert job.completion is not None
        self._count(job.completion, before, start if begun else job.arrived, first=begun is None)
        if piece is None:
            self._end(job, None)
        elif not job.cancelled:
            job.tell(piece)

    def _count(self, completion: Completion, before: int, since: float, *, first: bool) -> None:
        if first:
            self.metrics.tokens.add("prompt", by=completion.prompt_tokens)
        if completion.tokens > before:
            self.metrics.tokens.add("completion", by=completion.tokens - before)
            timing = self.metrics.first_token_seconds if first else self.metrics.token_seconds
            timing.observe(time.monotonic() - since)

    def _end(self, job: Job, event: Refused | None) -> None:
        with self._changed:
            if job not in self._line:  # cancelled while the token was made
                return
            self._line.remove(job)
            self._mean_seconds += (time.monotonic() - job.arrived - self._mean_seconds) / 8
        job.tell(event)
