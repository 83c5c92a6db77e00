"""Runtimes an artifact can be exported to, one file each: what they can carry, and how to write it.

Packages add targets through the entry-point group ``tailorbird.targets``: each entry names a subclass of `Target`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tailorbird.artifact.targets.target import Target
from tailorbird.errors import UsageError
from tailorbird.registry import named

__all__ = ["Target", "find", "targets"]


@lru_cache(maxsize=1)
def targets() -> dict[str, type[Target]]:
    """All targets by name, those of installed packages after the built-in ones.

    Raises:
        UsageError: two targets of one name.
    """
    return named(__name__, "tailorbird.targets", Target, "target")


def find(name: str, **options: Any) -> Target:
    """A target by name, with its options.

    Raises:
        UsageError: there is none, or it has no such option; lists those there are.
    """
    if name not in targets():
        raise UsageError(f"there is no target {name!r}", hint=f"targets: {', '.join(targets())}")
    return targets()[name].from_options(options)
