"""Published systems, one file each: nothing but their choices at score, allocate, fit and tune.

Packages add methods through the entry-point group ``tailorbird.methods``: each entry names a subclass of `Method`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.method import Method
from tailorbird.registry import builtin, installed

__all__ = ["Method", "find", "methods"]


@lru_cache(maxsize=1)
def methods() -> dict[str, type[Method]]:
    """All registered methods by name, those of installed packages after the built-in ones.

    Raises:
        UsageError: two methods of one name.
    """

    def is_method(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, Method) and bool(value.name)

    found: dict[str, type[Method]] = {}
    for method in [*builtin("tailorbird.methods", is_method), *_installed()]:
        if method.name in found and found[method.name] is not method:
            raise UsageError(f"two methods are called {method.name!r}", hint="uninstall one of the packages")
        found[method.name] = method
    return found


def _installed() -> list[type[Method]]:
    return installed(
        "tailorbird.methods", type, "a named Method", lambda kind: issubclass(kind, Method) and bool(kind.name)
    )


def find(name: str) -> type[Method]:
    """A method by name.

    Raises:
        UsageError: there is none; lists those there are.
    """
    if name not in methods():
        raise UsageError(f"there is no method {name!r}", hint=f"methods: {', '.join(methods())}")
    return methods()[name]
