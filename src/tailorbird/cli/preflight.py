"""What a compression will take, told before it begins; it does not begin on a disk that is too small."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.session import say
from tailorbird.errors import ResourceError

if TYPE_CHECKING:
    from tailorbird.pipeline.estimate import Estimate


def preflight(need: Estimate, out: Path) -> None:
    """Tell what a job that writes to `out` will take.

    Raises:
        ResourceError: the disk has less room than it will write.
    """
    say(told(need))
    place = _there(out)
    free = shutil.disk_usage(place).free
    if free < need.disk_bytes:
        raise ResourceError(
            f"{place} has {_size(free)} free, and the job will write {_size(need.disk_bytes)}",
            hint="free some space, or name a folder on another disk with --out",
        )
    memory = _memory()
    if memory is not None and memory < need.memory_bytes:
        say(f"note: this machine has {_size(memory)} of memory; the job may be slow or stopped by the system")


def told(need: Estimate) -> str:
    """A line for people."""
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in need.seconds.items() if seconds >= 1)
    return (
        f"about {need.total_seconds:.0f} s ({stages}), {_size(need.memory_bytes)} of memory "
        f"and {_size(need.disk_bytes)} of disk"
    )


def _there(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.0f} MB"


def _memory() -> int | None:
    """Bytes of memory of this machine, where the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
