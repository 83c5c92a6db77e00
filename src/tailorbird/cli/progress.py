"""Progress on standard error: a bar on a terminal, a line a piece elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tailorbird.cli.session import say
from tailorbird.pipeline.progress import Progress

Told = Callable[[str, int, int], None]


class PieceBar(Progress):
    """How far a compression is: pieces finished, the stage it is in, time gone and left."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, markup=False, highlight=False)
        self.bars = _bars(self.console) if self.console.is_terminal else None
        self.task: Any = None
        self.start = time.perf_counter()
        self.done = self.pieces = 0
        self.stage_now = "compressing"

    def begin(self, pieces: int) -> None:
        """Draw the empty bar."""
        self.pieces, self.done = pieces, 0
        if self.bars:
            self.bars.start()
            self.task = self.bars.add_task(self.stage_now, total=pieces)

    def enter(self, stage: str) -> None:
        """Name the stage."""
        self.stage_now = stage
        if self.bars and self.task is not None:
            self.bars.update(self.task, description=stage)

    def within(self, done: int, total: int) -> None:
        """Move on by a part of a piece."""
        if self.bars:
            self.bars.update(self.task, completed=self.done + done / total)

    def advance(self, piece: str) -> None:
        """Move on by a piece; without a terminal, print a line."""
        self.done += 1
        if self.bars:
            self.bars.update(self.task, completed=self.done)
        else:
            say(f"[{self.done}/{self.pieces}] {piece} ({time.perf_counter() - self.start:.0f} s)")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars:
            self.bars.stop()


@contextmanager
def drawn() -> Iterator[PieceBar]:
    """A progress bar that goes away however the work ends."""
    bar = PieceBar()
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def stages() -> Iterator[Told]:
    """What a long job tells of its stages, as a bar each on a terminal, else as lines; both say what is left."""
    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    with _bars(console) as bars:
        yield _each(bars)


class _Lines:
    """A line for every tenth of a stage. What was done before the first call took no time of this one."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, int]] = {}
        self.tenths: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now, tenth = time.perf_counter(), 10 * done // max(total, 1)
        start, before = self.began.setdefault(what, (now, done))
        if self.tenths.get(what) == tenth:
            return
        self.tenths[what] = tenth
        gone, left = now - start, ""
        if before < done < total:
            left = f", {gone / (done - before) * (total - done):.0f} s left"
        say(f"{what}: {done} of {total}, {gone:.0f} s{left}")


def _each(bars: Bars, prefix: str = "") -> Told:
    """A bar for every stage that tells something."""
    tasks: dict[str, Any] = {}

    def told(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(f"{prefix}{what}", total=total, completed=done)
        bars.update(tasks[what], completed=done)

    return told


@contextmanager
def evaluation(name: str) -> Iterator[Told]:
    """What `evaluate` is told to tell: a bar on a terminal, else one line."""
    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        say(name)
        yield lambda what, done, total: None
        return
    with _bars(console) as bars:
        yield _each(bars, f"{name}: ")


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
