"""Finding methods, targets and anatomies: the built-in ones and those that other packages bring by entry points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from tailorbird.errors import UsageError

T = TypeVar("T")


def builtin(package: str, kind: Callable[[Any], bool]) -> list[Any]:
    """Every object of a kind that a module of `package` defines at its top, in order of module name."""
    folder = importlib.import_module(package)
    found: list[Any] = []
    for info in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        found += [value for value in vars(module).values() if kind(value) and value not in found]
    return found


def installed(group: str, kind: type[T], wanted: str = "", fits: Callable[[T], bool] = lambda value: True) -> list[T]:
    """Objects other packages offer in an entry-point group.

    Args:
        group: name of the group.
        kind: their type.
        wanted: what else they must be, in words, and
        fits: whether one of that type is.

    Raises:
        UsageError: an entry can't be imported or is not what the group promises; the message names the package.
    """
    found: list[T] = []
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist else entry.value
        try:
            value = entry.load()
        except Exception as cause:
            raise UsageError(
                f"{group} entry {entry.name!r} of package {package!r} can't be imported: {cause}",
                hint=f"mend or uninstall {package}",
            ) from cause
        if not isinstance(value, kind):
            raise UsageError(
                f"{group} entry {entry.name!r} of package {package!r} is {type(value).__name__}, not {kind.__name__}",
                hint=f"mend or uninstall {package}",
            )
        if not fits(value):
            raise UsageError(
                f"{group} entry {entry.name!r} of package {package!r} is not {wanted}",
                hint=f"mend or uninstall {package}",
            )
        found.append(value)
    return found


def named(package: str, group: str, base: type[T], what: str) -> dict[str, type[T]]:
    """Subclasses of `base` with a name, by name: the built-in ones, then those of installed packages.

    Args:
        package: where the built-in ones are.
        group: entry-point group of the others.
        base: has a class attribute ``name``, empty in classes that are not meant to be found.
        what: what they are called in messages, such as ``method``.

    Raises:
        UsageError: two of one name, or an entry that is not what the group promises.
    """

    def fits(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, base) and bool(getattr(value, "name", ""))

    found: dict[str, type[T]] = {}
    for kind in [*builtin(package, fits), *installed(group, type, f"a named {base.__name__}", fits)]:
        name = kind.name
        if found.setdefault(name, kind) is not kind:
            raise UsageError(f"two {what}s are called {name!r}", hint="uninstall one of the packages")
    return found
