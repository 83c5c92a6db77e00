"""Published systems, one file each: nothing but their choices at score, allocate, fit and tune.

Packages add methods through the entry-point group ``tailorbird.methods``: each entry names a subclass of `Method`.
"""

from __future__ import annotations

from functools import lru_cache

from tailorbird.errors import UsageError
from tailorbird.method import Method
from tailorbird.registry import named

__all__ = ["Method", "find", "methods"]


@lru_cache(maxsize=1)
def methods() -> dict[str, type[Method]]:
    """All registered methods by name, those of installed packages after the built-in ones.

    Raises:
        UsageError: two methods of one name.
    """
    return named("tailorbird.methods", "tailorbird.methods", Method, "method")


def find(name: str) -> type[Method]:
    """A method by name.

    Raises:
        UsageError: there is none; lists those there are.
    """
    if name not in methods():
        raise UsageError(f"there is no method {name!r}", hint=f"methods: {', '.join(methods())}")
    return methods()[name]
