"""Giving memory back to the machine."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any


def give_back() -> None:
    """Return what was freed. The C library keeps freed blocks of up to 32 MB for itself, and over many pieces of a
    model that adds up to more than any one of them needs. Does nothing where the C library is not glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):
        return None
