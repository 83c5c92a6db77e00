"""Errors are part of the interface: one root class, each saying what was wrong, where, and what to do.

The command line exits with the `exit_code` of the class, so scripts can tell a user's mistake from a damaged file.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class TailorbirdError(Exception):
    """Root of every error this package raises on purpose.

    Args:
        message: what was wrong and where (file, tensor, option).
        hint: what the user can do about it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint and hasattr(self, "add_note"):
            self.add_note(f"hint: {hint}")


class UsageError(TailorbirdError):
    """An option, a recipe or a plan that can't be used as given."""

    exit_code = 2


class ModelError(TailorbirdError):
    """A model that is unknown, damaged or incomplete."""

    exit_code = 3


class DataError(TailorbirdError):
    """Calibration or evaluation data of the wrong kind."""

    exit_code = 4


class BudgetError(TailorbirdError):
    """A budget that can't be kept; the message names the smallest one that can."""

    exit_code = 5


class ArtifactError(TailorbirdError):
    """An artifact that is damaged, hostile, or not what its manifest says."""

    exit_code = 6


class MissingExtra(TailorbirdError):
    """A library that belongs to an optional extra is not installed."""

    exit_code = 7


class ResourceError(TailorbirdError):
    """The machine ran out of something: disk space, mostly."""

    exit_code = 8


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Args:
        module: dotted name of the module to import.
        extra: the extra of this package that installs it, such as ``hf``.

    Returns:
        The imported module.

    Raises:
        MissingExtra: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(
            f"this needs the library {module.partition('.')[0]!r}, which is not installed",
            hint=f"pip install 'tailorbird[{extra}]'",
        ) from None
