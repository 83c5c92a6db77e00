"""A limit on the time that Python code from outside may take."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TimeUp(BaseException):
    """The time is up. No `Exception`, so that no handler on the way up swallows it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop code that this thread calls in the block once it has computed for so long.

    It is looked at by line and call of Python code: one long step in C, as a product of large numbers, is not
    interrupted.

    Args:
        seconds: of processor time of this thread.

    Raises:
        TimeUp: the block took longer.
    """
    end = time.thread_time() + seconds

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > end:
            raise TimeUp
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
