"""Which family a model belongs to."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tailorbird.anatomy.anatomy import Anatomy
from tailorbird.errors import ModelError
from tailorbird.registry import builtin, installed


@lru_cache(maxsize=1)
def anatomies() -> tuple[Anatomy, ...]:
    """All families, those of installed packages first, so that they can refine a built-in one."""
    own = builtin("tailorbird.anatomy", lambda value: isinstance(value, Anatomy))
    return (*installed("tailorbird.anatomies", Anatomy), *own)


def anatomy_of(config: dict[str, Any], source: str) -> Anatomy:
    """The family of a model by the ``model_type`` of its config.json.

    Raises:
        ModelError: no family knows the type.
    """
    kind = config.get("model_type")
    for anatomy in anatomies():
        if kind in anatomy.model_types:
            return anatomy
    known = sorted(name for anatomy in anatomies() for name in anatomy.model_types)
    raise ModelError(
        f"{source}: config.json has model_type {kind!r}, which no anatomy knows",
        hint=f"known: {', '.join(known)}; see CONTRIBUTING.md on adding a family, or pass a torch module to compress()",
    )
