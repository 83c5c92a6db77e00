"""Folders of unfinished work: killed at any moment, it goes on with the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailorbird.errors import ModelError, UsageError
from tailorbird.files import json_bytes, make_folder, read_json, write_atomic
from tailorbird.zoo.recommenders import folder

INDEX = "pieces.json"
MAX_PIECE = 2**30  # bytes


@dataclass(frozen=True)
class Work:
    """Where states of a training are kept, a folder a stage.

    Attributes:
        folder: of all stages.
        job: everything that decides the result, as plain data.
        logs: of every stage that was begun, all its epochs, those before an interruption too.
    """

    folder: Path
    job: Mapping[str, Any]
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def save(self, stage: str, state: Any) -> None:
        """Keep the state of a stage at the end of an epoch."""
        folder.checkpoint(self.folder / stage, state, self.job)

    def restore(self, stage: str, state: Any) -> None:
        """Put a state where the stage was; it stays as it is where nothing was kept.

        Raises:
            UsageError: what was kept is of another job.
            ModelError: it is damaged.
        """
        folder.restore(self.folder / stage, state, self.job)
        self.logs[stage] = state.log


class Pieces:
    """Finished pieces of a job, a file each. The small file that says which there are, with their digests, is written
    last, so that a piece is whole or not there."""

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        """Open a folder, or make it.

        Args:
            folder: of the pieces alone.
            job: everything that decides what is in them, as plain data.

        Raises:
            UsageError: the pieces are of another job.
            ModelError: the folder is damaged.
        """
        self.folder, self._job = folder, json.loads(json_bytes(dict(job)))
        self._digests: dict[str, str] = {}
        make_folder(folder)
        if not (folder / INDEX).exists():
            self._write()
            return
        words = read_json(folder / INDEX, error=ModelError)
        found = words.get("pieces") if isinstance(words, dict) else None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise ModelError(f"{folder / INDEX} names no pieces", hint=f"remove {folder} and begin again")
        if words.get("job") != self._job:
            raise UsageError(f"{folder} is of another job", hint=f"give the same options, or remove {folder}")
        self._digests = found

    def __contains__(self, name: str) -> bool:
        """Whether a piece is finished."""
        return name in self._digests

    def read(self, name: str) -> bytes:
        """A finished piece.

        Raises:
            ModelError: it is not what was kept.
        """
        path = self._path(name)
        if path.is_file() and path.stat().st_size <= MAX_PIECE:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == self._digests[name]:
                return data
        raise ModelError(f"{path} is missing or damaged", hint=f"remove {self.folder} and begin again")

    def keep(self, name: str, data: bytes) -> None:
        """Keep a piece that is finished."""
        write_atomic(self._path(name), data)
        self._digests[name] = hashlib.sha256(data).hexdigest()
        self._write()

    def _path(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def _write(self) -> None:
        write_atomic(self.folder / INDEX, json_bytes({"job": self._job, "pieces": self._digests}))


def once(pieces: Pieces | None, name: str, make: Callable[[], bytes]) -> bytes:
    """A piece that is kept, or else is made and kept; made every time where there is no place to keep it."""
    if pieces is not None and name in pieces:
        return pieces.read(name)
    data = make()
    if pieces is not None:
        pieces.keep(name, data)
    return data
