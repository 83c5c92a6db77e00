"""``tailorbird-export.json``: what an exported folder consists of, and what it was made from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tailorbird.checkpoint.gguf_reader import read_gguf
from tailorbird.errors import ArtifactError, MissingExtra, ModelError
from tailorbird.files import confined, json_bytes, read_json, sha256, write_json
from tailorbird.formats.safetensors_header import read_header

NAME = "tailorbird-export.json"
FORMAT = "tailorbird-export"
VERSION = 1
_MAX_BYTES = 2**22
_MAX_FILES = 4096
_HEX = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"\w[\w.-]{0,200}", re.ASCII)
_AGAIN = "the export is damaged: fetch or make it again"


@dataclass(frozen=True)
class Record:
    """What stands beside the files of an export.

    Attributes:
        target: the runtime it is for.
        options: those of the target.
        artifact: digest of the artifact it was made from.
        library: what read it back, with its version.
        exact: no weight differs from the artifact's.
        weights: number of weights bits are counted over.
        files: (bytes, SHA-256) by name, of all files but this one.
    """

    target: str
    options: Mapping[str, Any]
    artifact: str
    library: str
    exact: bool
    weights: int
    files: Mapping[str, tuple[int, str]]

    @property
    def nbytes(self) -> int:
        """Bytes of all files but this one."""
        return sum(size for size, _ in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the record."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write tailorbird-export.json."""
        write_json(folder / NAME, self._json())

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read and check tailorbird-export.json.

        Raises:
            ArtifactError: missing, malformed, altered, or naming files outside the folder.
        """
        path = folder / NAME
        data = read_json(path, limit=_MAX_BYTES)
        try:
            fields = {key: data[key] for key in cls.__dataclass_fields__}
            if (data["format"], data["version"]) != (FORMAT, VERSION) or not _sound(fields):
                raise ValueError("a field has the wrong type")
            files = {name: (size, digest) for name, (size, digest) in fields["files"].items()}
            record = cls(**fields | {"files": files})
            if path.read_bytes() != json_bytes(record._json()):
                raise ValueError("it was altered")
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ArtifactError(
                f"{path} is not an export's record of version {VERSION}: {cause}", hint=_AGAIN
            ) from cause
        for name in files:
            if not _FILE.fullmatch(name):
                raise ArtifactError(f"{path} names a file {name[:200]!r}", hint="do not use this export")
            confined(folder, name)
        return record

    def _json(self) -> dict[str, Any]:
        files = {name: list(entry) for name, entry in self.files.items()}
        return {"format": FORMAT, "version": VERSION, "digest": self.digest} | asdict(self) | {"files": files}


def files_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of every file in a folder."""
    paths = sorted(path for path in folder.iterdir() if path.name != NAME)
    return {path.name: (path.stat().st_size, sha256(path)) for path in paths}


def check_files(folder: Path, record: Record) -> None:
    """Compare a folder with its record.

    Raises:
        ArtifactError: a file is missing, too many, or differs; the message names it.
    """
    for name, (size, digest) in record.files.items():
        path = confined(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", hint=_AGAIN)
        if path.stat().st_size != size:
            raise ArtifactError(f"{path} is {path.stat().st_size} bytes, the record says {size}", hint=_AGAIN)
        if sha256(path) != digest:
            raise ArtifactError(f"{path} differs from its digest in the record", hint=_AGAIN)
        if name.endswith(".safetensors"):
            read_header(path, error=ArtifactError)
        elif name.endswith(".gguf"):
            _check_gguf(path)
        elif name.endswith(".json") and not isinstance(read_json(path), dict):
            raise ArtifactError(f"{path} is not a JSON object", hint=_AGAIN)
    more = {path.name for path in folder.iterdir()} - set(record.files) - {NAME}
    if more:
        raise ArtifactError(
            f"{folder / min(more)} is not part of the export", hint="remove it, or do not use this export"
        )


def _check_gguf(path: Path) -> None:
    """Header, metadata and table of tensors, where the library that reads them is installed."""
    try:
        read_gguf(path)
    except MissingExtra:
        return
    except ModelError as cause:
        raise ArtifactError(cause.message, hint=_AGAIN) from cause


def _sound(fields: Mapping[str, Any]) -> bool:
    files = fields["files"]
    texts = all(isinstance(fields[name], str) for name in ("target", "artifact", "library"))
    return (
        texts
        and isinstance(fields["options"], dict)
        and isinstance(fields["exact"], bool)
        and type(fields["weights"]) is int
        and fields["weights"] > 0
        and isinstance(files, dict)
        and 0 < len(files) <= _MAX_FILES
        and all(
            isinstance(entry, list)
            and len(entry) == 2
            and type(entry[0]) is int
            and 0 <= entry[0] < 2**63
            and isinstance(entry[1], str)
            and bool(_HEX.fullmatch(entry[1]))
            for entry in files.values()
        )
    )
