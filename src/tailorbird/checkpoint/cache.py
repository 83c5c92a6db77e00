"""The folder of converted models: every entry is whole or absent, whoever is killed while writing it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tailorbird.files import disk_full

_HEAD = 4 * 2**20
_SAMPLES, _SAMPLE_BYTES = 512, 16 * 2**10
_STALE_SECONDS = 24 * 3600.0


def cache_folder(cache: Path | None = None) -> Path:
    """The cache's root: the argument, ``$TAILORBIRD_CACHE``, or ``~/.cache/tailorbird``."""
    if cache is not None:
        return cache
    named = os.environ.get("TAILORBIRD_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tailorbird"


def file_key(path: Path, version: int) -> str:
    """A key for a large file, from its size, its first 4 MiB, 512 samples of 16 KiB spread evenly, and a version.

    Samples, because a fine-tuned model often shares its first and last tensors with the one it was made from. The
    file's name, folder and time don't matter.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{version}:{size}:".encode())
    with path.open("rb") as handle:
        digest.update(handle.read(_HEAD))
        for i in range(_SAMPLES):
            handle.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def cached(root: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `root/key`, built now if it isn't there.

    Args:
        root: made if need be.
        key: name of the folder.
        build: fills the empty folder it is given, beside the final one. Two processes may build at the same
            time; the first to finish wins and the other's work is dropped.

    Raises:
        ResourceError: the disk is full.
    """
    final = root / key
    if final.is_dir():
        return final
    aside: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        aside = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".partial", dir=root))
        aside.chmod(0o755)  # temporary folders are private, a cache may be shared
        build(aside)
        _publish(aside, final)
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(final, cause) from cause
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return final


def _publish(aside: Path, final: Path) -> None:
    try:
        aside.replace(final)
    except OSError:
        if not final.is_dir():  # otherwise somebody else was faster, with the same content
            raise


def _sweep(root: Path) -> None:
    """Remove what killed conversions left behind, once no living one can still be at it."""
    for path in root.glob(".*.partial"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
