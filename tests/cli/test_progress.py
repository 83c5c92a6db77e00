"""The bar moves inside a piece too, and never further than the piece."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tailorbird.cli import progress
from tailorbird.cli.progress import PieceBar


def test_steps_inside_a_piece() -> None:
    bar = PieceBar()
    bar.bars = progress._bars(Console(file=io.StringIO(), force_terminal=True))
    bar.begin(3)
    seen = []
    for move in (
        lambda: bar.within(1, 4),
        lambda: bar.within(4, 4),
        lambda: bar.advance("a"),
        lambda: bar.within(1, 2),
    ):
        move()
        seen.append(bar.bars.tasks[0].completed)
    bar.close()
    assert seen == [0.25, 1, 1, 1.5]


def test_without_a_terminal_steps_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = PieceBar()
    bar.bars = None
    bar.begin(3)
    bar.within(1, 2)
    assert capsys.readouterr() == ("", "") and bar.done == 0


def test_lines_say_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What was done before took no time of this call; a line for every tenth."""
    clock = iter([100.0, 102.0, 103.0, 110.0, 200.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with progress.stages() as told:
        for done in (50, 60, 61, 75, 100):
            told("devices", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "devices: 50 of 100, 0 s",
        "devices: 60 of 100, 2 s, 8 s left",
        "devices: 75 of 100, 10 s, 10 s left",
        "devices: 100 of 100, 100 s",
    ]
