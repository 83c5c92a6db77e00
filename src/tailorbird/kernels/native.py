"""The native kernels: which there are, and how many threads they use.

The extension is compiled when the package is installed. Without it `available` is false, and what would have used
it goes on with the plain PyTorch of `reference`, after one warning.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from types import ModuleType

from tailorbird.errors import TailorbirdError, UsageError

VARIABLE = "TAILORBIRD_KERNELS"
REFERENCE = "reference"


class SlowKernelsWarning(UserWarning):
    """The compiled kernels are missing: everything works, slowly."""


@lru_cache(maxsize=1)
def extension() -> ModuleType | None:
    """The compiled module with the variant of ``TAILORBIRD_KERNELS`` chosen; none if it is missing or not wanted.

    Raises:
        UsageError: the variable names a variant this processor does not have.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == REFERENCE:
        return None
    module = load()
    if module is None:
        warnings.warn(
            "the compiled kernels are missing: packed weights run on plain PyTorch, many times slower; "
            "install a C++20 compiler and then this package again",
            SlowKernelsWarning,
            stacklevel=2,
        )
    elif wanted:
        use(module, wanted)
    return module


def load() -> ModuleType | None:
    """Import the compiled module, if there is one."""
    try:
        from tailorbird.kernels import _native
    except ImportError:
        return None
    return _native


def use(module: ModuleType, variant: str) -> None:
    """Choose a variant by name.

    Raises:
        UsageError: this processor does not have it.
    """
    if variant not in module.variants():
        raise UsageError(
            f"there are no kernels {variant!r} for this processor",
            hint=f"set {VARIABLE} to one of {', '.join([*module.variants(), REFERENCE])}, or to nothing",
        )
    module.use_variant(variant)


def available() -> bool:
    """Whether the compiled kernels are there and wanted."""
    return extension() is not None


def set_threads(threads: int) -> None:
    """Threads of the kernels, 1 to 256; 0 for as many as this process has processors.

    Raises:
        UsageError: a number outside that.
    """
    if not 0 <= threads <= 256:
        raise UsageError(f"threads is {threads}", hint="1 to 256, or 0 for as many as there are processors")
    module = extension()
    if module is not None:
        module.set_threads(threads)


def read_bandwidth(size: int = 1 << 28, seconds: float = 0.5) -> float:
    """Bytes a second that the kernels' threads read from memory: the wall a product of one row runs into.

    Args:
        size: bytes to read over and over; more than the caches hold.
        seconds: how long to measure; the best pass counts.

    Raises:
        TailorbirdError: there are no native kernels to measure with.
    """
    module = extension()
    if module is None:
        raise TailorbirdError("there are no native kernels to measure with", hint="see the documentation on kernels")
    return float(module.read_bandwidth(size, seconds))
