"""Recipes: any command's options in a TOML file; what stands on the command line wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from tailorbird.errors import UsageError
from tailorbird.files import read_toml

# Options whose value may be a file or folder that lies beside the recipe.
_PATHS = {"model", "data", "plan", "text", "reference", "tasks", "artifact", "original", "profile"}


def apply(context: typer.Context, path: Path | None) -> Path | None:
    """Make a recipe's values the defaults of the command; the callback of ``--recipe``.

    Raises:
        UsageError: the file can't be read, or has a key that is no option of the command.
    """
    if path is None or context.resilient_parsing:
        return path
    names = {option.lstrip("-").replace("-", "_"): p.name for p in context.command.params for option in p.opts}
    names = {key: name for key, name in names.items() if key not in ("recipe", "help")}
    repeatable = {p.name for p in context.command.params if getattr(p, "multiple", False)}
    values: dict[str, Any] = {}
    for key, value in read_toml(path).items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            known = ", ".join(sorted(names))
            raise UsageError(
                f"{path}: {key!r} is no option of `tailorbird {context.info_name}`", hint=f"its options: {known}"
            )
        found = _value(path, key, value)
        values[name] = [found] if name in repeatable and not isinstance(found, list) else found
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _value(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if key != "set":
            raise UsageError(f"{path}: {key!r} can't be a table", hint="only [set], the method's options, is one")
        return [f"{name}={_text(item)}" for name, item in value.items()]
    if isinstance(value, list):
        return [_value(path, key, item) for item in value]
    if isinstance(value, bool | int | float) or not isinstance(value, str):
        return value if isinstance(value, bool) else str(value)
    # Relative to the recipe where something of that name lies beside it, else as on the command line.
    beside = path.parent / value
    local = key in _PATHS and value and not Path(value).is_absolute() and beside.exists()
    return str(beside) if local else value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
