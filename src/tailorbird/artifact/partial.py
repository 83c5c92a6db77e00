"""An artifact in the making: a folder beside the final one, where every finished piece is kept.

A piece is there whole or not at all, so a job killed at any moment goes on from the last finished piece and ends
with the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird.artifact.layout import Segment, tensors_of
from tailorbird.artifact.manifest import Manifest
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.files import read_json, write_json
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write

JOB = "job.json"


class Partial:
    """The folder ``OUT.partial`` of a job.

    Args:
        out: where the artifact will be.
        job: everything that decides its bytes, as plain data; a resumed job must have the same.
        resume: go on from what is there.

    Raises:
        UsageError: `out` exists, or a partial folder exists and is not to be, or can't be, resumed.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], resume: bool) -> None:
        self.out, self.folder = out, partial_folder(out)
        self.facts = self.folder / "work"
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
        if self.folder.exists() and not resume:
            raise UsageError(
                f"{self.folder} holds an unfinished job",
                hint="go on with --resume, or remove that folder to start anew",
            )
        if (self.folder / JOB).exists() and read_json(self.folder / JOB) != job:
            raise UsageError(
                f"{self.folder} is from another job (model, data, options or version differ)",
                hint="give the same options to --resume, or remove that folder to start anew",
            )
        self.facts.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOB, job)

    def done(self, piece: Segment) -> bool:
        """The piece was finished."""
        return (self.folder / piece.file).exists()

    def write(
        self,
        piece: Segment,
        planes: Mapping[str, BitPlanes],
        kept: Mapping[str, Tensor],
        facts: Mapping[str, Any],
    ) -> None:
        """Keep a finished piece: its facts first, its tensors last, each whole or not at all."""
        specs = {name: p.spec.to_json() for name, p in planes.items()}
        write_json(self._facts_file(piece), {"specs": specs, "facts": facts})
        write(self.folder / piece.file, tensors_of(planes, kept))

    def facts_of(self, piece: Segment) -> dict[str, Any]:
        """What `write` was told about a piece."""
        return dict(read_json(self._facts_file(piece))["facts"])

    def specs_of(self, piece: Segment) -> dict[str, PlaneSpec]:
        """The formats of a finished piece's parts."""
        specs = read_json(self._facts_file(piece))["specs"]
        return {part.name: PlaneSpec.from_json(specs[part.name], part.shape[1]) for part in piece.parts}

    def planes(self, piece: Segment) -> dict[str, BitPlanes]:
        """The packed parts of a finished piece."""
        header = read_header(self.folder / piece.file, error=ArtifactError)
        found = {}
        for part, spec in zip(piece.parts, self.specs_of(piece).values(), strict=True):
            names = BitPlanes.plan(1, spec).arrays
            arrays = {name: read_tensor(header[f"{part.name}.{name}"], error=ArtifactError) for name in names}
            found[part.name] = BitPlanes.from_arrays(part.shape[0], spec, arrays)
        return found

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and give the folder its name; it still counts as unverified."""
        shutil.rmtree(self.facts, ignore_errors=True)
        (self.folder / JOB).unlink(missing_ok=True)
        manifest.write(self.folder)
        if self.out.exists():
            self.out.rmdir()
        self.folder.rename(self.out)

    def _facts_file(self, piece: Segment) -> Path:
        return self.facts / f"{piece.file}.json"


def partial_folder(out: Path) -> Path:
    """Where the unfinished artifact of `out` lies."""
    return out.with_name(f"{out.name}.partial")
