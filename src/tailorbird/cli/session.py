"""What a call of the command line shares with its commands: where results and messages go, and what to say when it is
interrupted."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tailorbird.errors import TailorbirdError

WIDE = 200
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Session:
    """One call of the command line.

    Attributes:
        args: the words after ``tailorbird``.
        json: the result goes to standard output as one JSON document, and nothing else does.
        debug: errors keep their traceback.
        stdout: standard output; with `json`, ``sys.stdout`` itself is turned to standard error.
        interrupted: what to tell when the user stops the command.
    """

    args: list[str]
    json: bool = False
    debug: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    interrupted: Callable[[], str] = lambda: "nothing was written"

    def emit(self, value: Any) -> None:
        """Print a result as JSON; numbers JSON can't hold become null."""
        print(json.dumps(finite(value), indent=1, ensure_ascii=False), file=self.stdout, flush=True)

    def show(self, table: Table) -> None:
        """Print a table, as wide as it likes where no terminal limits it."""
        from rich.console import Console

        width = None if self.stdout.isatty() else WIDE
        Console(file=self.stdout, markup=False, highlight=False, width=width).print(table)

    def line(self, text: str) -> None:
        """Print a line, or several, as they are; on a terminal without characters that steer it."""
        print(self.printable(text), file=self.stdout)

    def printable(self, text: str) -> str:
        """Text of a model or a file, fit for where standard output goes."""
        return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text) if self.stdout.isatty() else text

    def fail(self, error: TailorbirdError) -> int:
        """Tell an error, on standard error for people and, with `json`, on standard output for machines."""
        say(f"error: {error.message}")
        if error.hint:
            say(f"hint: {error.hint}")
        if self.json:
            self.emit({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        return error.exit_code


def session(context: typer.Context) -> Session:
    """The session of a command."""
    found = context.find_root().obj
    assert isinstance(found, Session)
    return found


def say(text: str) -> None:
    """A message, on standard error."""
    print(text, file=sys.stderr, flush=True)


def finite(value: Any) -> Any:
    """Plain data without infinities and NaN."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
