"""Reading and writing files so that nothing is ever half there, too large, or outside its folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tailorbird.errors import ArtifactError, ResourceError, TailorbirdError, UsageError

MAX_JSON_BYTES = 64 * 2**20
MAX_TOML_BYTES = 2**20
_CHUNK = 2**20
# No space, no quota, or a limit on the size of a file: freeing or allowing some lets the job go on.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success fsync it and rename it into place, otherwise remove it.

    Raises:
        ResourceError: the disk is full.
    """
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb+") as handle:
            os.fsync(handle.fileno())
        aside.replace(path)
        _fsync(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(path, error) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; on success give it its name, otherwise remove it. What a killed process had
    begun there is removed first.

    Raises:
        ResourceError: the disk is full.
    """
    make_folder(path.parent)
    for left in path.parent.glob(f".{path.name}.*.folder"):
        if not _alive(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.folder")
    try:
        make_folder(aside)
        yield aside
        for file in aside.iterdir():
            _fsync(file)
        _fsync(aside)
        aside.rename(path)
        _fsync(path.parent)
    except (OSError, ResourceError) as error:
        if isinstance(error, ResourceError) or error.errno in _FULL:
            hint = "free some space and run the same command again; nothing was left behind"
            raise ResourceError(f"no space left while writing {path}", hint=hint) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they don't exist.

    Raises:
        ResourceError: the disk is full.
        UsageError: it can't be made there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(path, error) from error
        raise UsageError(f"the folder {path} can't be made: {error}", hint="choose another place") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_path` had begun in `folder` when its process was killed."""
    for path in folder.glob(".*.partial"):
        if path.is_file():
            path.unlink(missing_ok=True)


def unfinished(out: Path, what: str, *, resume: bool) -> Path:
    """The folder beside `out` in which it is worked on; nothing is overwritten, and no work is taken up unasked.

    Args:
        out: what it becomes.
        what: the work in a word, such as ``training``.
        resume: go on with work that is there.

    Raises:
        UsageError: `out` exists, or there is unfinished work and none was to be resumed.
    """
    work = out.with_name(f"{out.name}.{what}")
    if out.exists():
        raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
    if work.exists() and not resume:
        raise UsageError(f"{work} holds an unfinished {what}", hint="go on with --resume, or remove that folder")
    return work


def disk_full(path: Path, cause: BaseException) -> ResourceError:
    """The one error for a full disk, wherever it shows."""
    return ResourceError(
        f"no space left while writing {path}: {cause}",
        hint="free some space and run the same command again; a compression goes on where it was with --resume",
    )


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees either the old file or the whole new one."""
    with atomic_path(path) as aside, aside.open("wb") as handle:
        handle.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented, key-ordered JSON (so that equal data give equal bytes)."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON as `write_json` writes it."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_json(path: Path, *, limit: int = MAX_JSON_BYTES, error: type[TailorbirdError] = ArtifactError) -> Any:
    """Read JSON of at most `limit` bytes.

    Raises:
        error: missing, too large, not UTF-8, not JSON, or nested too deeply.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is not a plain file", hint="fetch or make the file again")
        size = path.stat().st_size
        if size > limit:
            raise error(
                f"{path} is {size} bytes; at most {limit} are read",
                hint="this is not a file written by tailorbird",
            )
        with path.open("rb") as handle:
            return json.loads(handle.read(limit).decode("utf-8"))
    except FileNotFoundError:
        raise error(f"{path} is missing", hint="check the path, or fetch the file again") from None
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} can't be read as JSON: {cause}", hint="fetch or make the file again") from cause


def read_toml(path: Path, *, limit: int = MAX_TOML_BYTES, error: type[TailorbirdError] = UsageError) -> dict[str, Any]:
    """Read TOML of at most `limit` bytes.

    Raises:
        error: missing, too large, not UTF-8, or not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if path.stat().st_size > limit:
            raise error(f"{path} is larger than {limit} bytes", hint="a recipe is a few lines of TOML")
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} can't be read as TOML: {cause}", hint="check the path and the file") from cause


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def confined(folder: Path, name: str) -> Path:
    """The path of `name` inside `folder`, refusing anything that could lead out of it.

    Raises:
        ArtifactError: an absolute name, one with ``..``, a back-slash or NUL, or a link that leads elsewhere.
    """
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise ArtifactError(f"file name {name[:200]!r} leads out of its folder", hint="do not use this artifact")
    path = folder / pure
    try:
        inside = not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as cause:  # no name the system can hold, or a circle of links
        raise ArtifactError(f"bad file name {name[:200]!r}: {cause}", hint="do not use this artifact") from cause
    if not inside:
        raise ArtifactError(f"{path} is a link or leads out of {folder}", hint="do not use this artifact")
    return path


def _alive(process: str) -> bool:
    """Whether the process of this number runs; anything but a number counts as one that does."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
