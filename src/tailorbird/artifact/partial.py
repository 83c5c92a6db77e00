"""An artifact in the making: a folder beside the final one, where every finished piece is kept.

A piece is there whole or not at all, so a job killed at any moment goes on from the last finished piece and ends
with the same bytes. ``job.json`` says whose job it is; it stays in the finished artifact (nothing loads it), so that
a job killed after the artifact got its name can be told from another one and go on too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird.artifact.layout import Segment, tensors_of
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.artifact.manifest import Manifest
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.files import make_folder, read_json, remove_leftovers, write_json
from tailorbird.formats import PackedWeight, Spec, spec_from_json
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write

JOB = "job.json"
TIMED = "timed.json"
LEARNED = "divergence.json"


class Partial:
    """The folder ``OUT.partial`` of a job, or OUT itself where the job was killed after it got its name.

    Args:
        out: where the artifact will be.
        job: everything that decides its bytes, as plain data; a resumed job must have the same.
        resume: go on from what is there.

    Raises:
        UsageError: `out` exists and is not of this job, or a partial folder exists and is not to be, or can't be,
            resumed.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], resume: bool) -> None:
        self.out, self.folder = out, partial_folder(out)
        self.job = {name: _short(value) for name, value in job.items()}
        self.named = resume and (out / JOB).is_file() and (out / MANIFEST).is_file()
        if self.named:
            self.folder = out
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
        self._check(resume)
        self.facts = self.folder / "work"
        if not self.named:
            make_folder(self.facts)
            write_json(self.folder / JOB, {"job": self.job})
        for folder in (self.folder, self.facts):
            remove_leftovers(folder)

    @property
    def verified(self) -> bool:
        """The artifact has its name and was verified."""
        return self.named and Manifest.read(self.folder).verified

    @property
    def timed(self) -> dict[str, Any]:
        """`milliseconds` of one decoded token by the finished weights, and how many times `slower` than usual the
        machine was; empty where nobody measured it."""
        return dict(self._noted(TIMED) or {})

    @property
    def divergence(self) -> list[float]:
        """From the original, before the finished model learned from it and after every pass; none where it did not."""
        return [float(found) for found in self._noted(LEARNED) or ()]

    def _noted(self, name: str) -> Any:
        """What a stage has left in a file of its own, or `close` has gathered; None where there was no such stage."""
        note = self.facts / name
        return read_json(note) if note.exists() else read_json(self.folder / JOB).get(Path(name).stem)

    def attempt(self, name: str) -> Partial:
        """Room of its own for the pieces of one attempt at the job; `adopt` takes the best one over."""
        other = copy(self)
        other.folder = self.facts / name
        other.facts = other.folder / "work"
        make_folder(other.facts)
        return other

    def adopt(self, other: Partial, pieces: list[Segment]) -> None:
        """Take over the pieces of an attempt; does the rest of it after a kill."""
        for piece in pieces:
            if other.done(piece):
                other._facts_file(piece).replace(self._facts_file(piece))
                (other.folder / piece.file).replace(self.folder / piece.file)
        if (other.facts / TIMED).exists():
            shutil.copy(other.facts / TIMED, self.facts / TIMED)

    def done(self, piece: Segment) -> bool:
        """The piece was finished."""
        return (self.folder / piece.file).exists()

    def write(
        self,
        piece: Segment,
        planes: Mapping[str, PackedWeight],
        kept: Mapping[str, Tensor],
        facts: Mapping[str, Any],
    ) -> None:
        """Keep a finished piece: its facts first, its tensors last, each whole or not at all."""
        specs = {name: p.spec.to_json() for name, p in planes.items()}
        write_json(self._facts_file(piece), {"specs": specs, "facts": facts})
        write(self.folder / piece.file, tensors_of(planes, kept))

    def facts_of(self, piece: Segment) -> dict[str, Any]:
        """What `write` was told about a piece."""
        if self._facts_file(piece).exists():
            return dict(read_json(self._facts_file(piece))["facts"])
        # The artifact was verified and `close` took the single files away.
        return dict(read_json(self.folder / JOB)["facts"][piece.file])

    def specs_of(self, piece: Segment) -> dict[str, Spec]:
        """The formats of a finished piece's parts."""
        specs = read_json(self._facts_file(piece))["specs"]
        return {part.name: spec_from_json(specs[part.name], part.shape[1]) for part in piece.parts}

    def planes(self, piece: Segment) -> dict[str, PackedWeight]:
        """The packed parts of a finished piece."""
        header = read_header(self.folder / piece.file, error=ArtifactError)
        found = {}
        for part, spec in zip(piece.parts, self.specs_of(piece).values(), strict=True):
            names = spec.plan(part.shape[0]).arrays
            arrays = {name: read_tensor(header[f"{part.name}.{name}"], error=ArtifactError) for name in names}
            found[part.name] = spec.read(part.shape[0], arrays)
        return found

    def kept(self, piece: Segment) -> dict[str, Tensor]:
        """The tensors of a finished piece that are stored as they are."""
        header = read_header(self.folder / piece.file, error=ArtifactError)
        return {name: read_tensor(header[name], error=ArtifactError) for name in piece.kept}

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and give the folder its name; it still counts as unverified."""
        shutil.rmtree(self.facts / "states", ignore_errors=True)
        manifest.write(self.folder)
        if self.out.exists():
            self.out.rmdir()
        self.folder.rename(self.out)
        self.folder, self.facts, self.named = self.out, self.out / "work", True

    def close(self, pieces: list[Segment]) -> None:
        """The artifact is verified: gather the facts in job.json and remove what only an unfinished job needs."""
        if self.facts.exists():
            facts = {piece.file: self.facts_of(piece) for piece in pieces}
            notes = {"timed": self.timed, "divergence": self.divergence}
            write_json(self.folder / JOB, {"job": self.job, "facts": facts} | notes)
            shutil.rmtree(self.facts)

    def abandon(self) -> None:
        """Remove the folder if no piece was finished: there is nothing to resume."""
        if not self.named and not any(self.folder.rglob("*.safetensors")):
            shutil.rmtree(self.folder)

    def _check(self, resume: bool) -> None:
        if self.folder.exists() and not resume:
            raise UsageError(
                f"{self.folder} holds an unfinished job",
                hint="go on with --resume, or remove that folder to start anew",
            )
        if not (self.folder / JOB).exists():
            return
        found = read_json(self.folder / JOB)
        before = found.get("job") if isinstance(found, dict) else None
        if before != self.job:
            other = before if isinstance(before, dict) else {}
            odd = [name for name, value in self.job.items() if other.get(name) != value]
            raise UsageError(
                f"{self.folder} is from another job: {', '.join(odd)} differ{'s' * (len(odd) == 1)}",
                hint="give the same options to --resume, or remove that folder to start anew",
            )

    def _facts_file(self, piece: Segment) -> Path:
        return self.facts / f"{piece.file}.json"


def partial_folder(out: Path) -> Path:
    """Where the unfinished artifact of `out` lies."""
    return out.with_name(f"{out.name}.partial")


def _short(value: Any) -> Any:
    """Plain values as they are, anything longer (a plan) as its digest."""
    if isinstance(value, str | int):
        return value
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
