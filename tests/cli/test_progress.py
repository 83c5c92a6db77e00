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
