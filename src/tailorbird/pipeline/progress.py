"""How a long job tells where it is; the command line draws it, a library user may ignore it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Told about every stage and finished piece; this one says nothing. Subclasses draw."""

    def begin(self, pieces: int) -> None:
        """A job of so many pieces begins."""

    def enter(self, stage: str) -> None:
        """A stage begins."""

    def within(self, done: int, total: int) -> None:
        """So many steps of the piece that is worked on are done."""

    def advance(self, piece: str) -> None:
        """A piece is finished."""

    @contextmanager
    def stage(self, name: str, clock: dict[str, float]) -> Iterator[None]:
        """Time a stage into `clock` (seconds by name)."""
        self.enter(name)
        start = time.perf_counter()
        yield
        clock[name] = clock.get(name, 0.0) + time.perf_counter() - start


silent = Progress()
