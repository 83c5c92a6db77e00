"""Giving freed memory back to the machine, where the C library is glibc; elsewhere nothing is done.

glibc keeps freed blocks of up to 32 MB for later. Weights, statistics and the temporaries between them have many
different sizes, so what is kept seldom fits what is asked for next: on a model with 2,048 columns the peak of a job
was twice what it holds.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

_M_MMAP_THRESHOLD = -3  # malloc.h
# Blocks from here on come straight from the system and go straight back. Smaller ones are asked for so often that
# fetching fresh pages each time would cost more than it saves.
_LARGE = 8 * 2**20


def keep_little() -> None:
    """From now on hand large blocks back as soon as they are freed; holds for the whole process."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Hand back all that is free now."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
