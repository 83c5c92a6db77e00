"""The manifest: which files make up an artifact, their sizes and digests, and one digest over all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird.errors import ArtifactError
from tailorbird.files import confined, read_json, sha256, write_json
from tailorbird.formats.raw import raw_bytes

NAME = "manifest.json"
FORMAT = "tailorbird-artifact"
VERSION = 1
MAX_FILES = 4096
_HEX = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"format", "version", "files", "weights", "verified"}
# Files the runtime loads; anything else in the folder is for people.
_RUNTIME = re.compile(
    r"(config|generation_config|tokenizer_config|special_tokens_map|plan|recommender)\.json|tokenizer\.json\.xz|[\w.-]+\.safetensors|chat_template\.jinja"
)


@dataclass(frozen=True)
class Manifest:
    """What an artifact consists of.

    Attributes:
        files: (bytes, SHA-256) by file name, of all files the runtime loads but the manifest itself.
        weights: digest of what the weight means by part name, taken when the part was fitted, before it was packed.
        verified: the artifact was read back in a fresh process and found right.
    """

    files: Mapping[str, tuple[int, str]]
    weights: Mapping[str, str]
    verified: bool = False

    @classmethod
    def of(cls, folder: Path, weights: Mapping[str, str]) -> Manifest:
        """The manifest of a folder as it is."""
        paths = sorted(path for path in folder.iterdir() if path.is_file() and _RUNTIME.fullmatch(path.name))
        return cls({path.name: (path.stat().st_size, sha256(path)) for path in paths}, dict(weights))

    @property
    def digest(self) -> str:
        """SHA-256 over names and digests of the files: the identity of the artifact."""
        lines = "".join(f"{name}\0{digest}\n" for name, (_, digest) in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        write_json(folder / NAME, {"format": FORMAT, "version": VERSION} | asdict(self))

    def as_verified(self) -> Manifest:
        """The same, marked verified."""
        return replace(self, verified=True)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check manifest.json.

        Raises:
            ArtifactError: missing, malformed, or naming files outside the folder.
        """
        if not (folder / NAME).is_file():
            raise ArtifactError(
                f"{folder} is no artifact: it has no {NAME}",
                hint="give the folder that `tailorbird compress` wrote, or compress the model first",
            )
        data = read_json(folder / NAME)
        if (
            not isinstance(data, dict)
            or data.get("format") != FORMAT
            or data.get("version") != VERSION
            or set(data) != _FIELDS
        ):
            raise ArtifactError(
                f"{folder / NAME} is not a manifest of version {VERSION}",
                hint="is this a tailorbird artifact?",
            )
        files, weights, verified = data["files"], data["weights"], data["verified"]
        if not _mapping(files) or not _mapping(weights) or not isinstance(verified, bool):
            raise ArtifactError(f"{folder / NAME} is malformed", hint="fetch the artifact again")
        for name, entry in files.items():
            confined(folder, name)
            if not _RUNTIME.fullmatch(name) or not _entry(entry):
                raise ArtifactError(f"{folder / NAME}: bad entry for file {name!r}", hint="fetch the artifact again")
        if not all(isinstance(value, str) and _HEX.fullmatch(value) for value in weights.values()):
            raise ArtifactError(f"{folder / NAME}: bad digest of a weight", hint="fetch the artifact again")
        return cls({name: (size, digest) for name, (size, digest) in files.items()}, weights, verified)


def weight_digest(meaning: Iterable[Tensor]) -> str:
    """Digest of what a weight means: its codes, scales and the like one after the other, however they are packed."""
    digest = hashlib.sha256()
    for tensor in meaning:
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _mapping(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= MAX_FILES * 64


def _entry(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    size, digest = value
    return type(size) is int and size >= 0 and isinstance(digest, str) and bool(_HEX.fullmatch(digest))
