"""Short trials of what a job does beside measuring and fitting: weights are read, compared, digested, written and read
back, and a fresh process is started that verifies the artifact."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tailorbird.anatomy import Part
from tailorbird.artifact.manifest import weight_digest
from tailorbird.errors import ArtifactError
from tailorbird.files import write_json
from tailorbird.formats import PackedWeight, RowSpec, Spec
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.measure.statistics import Stats
from tailorbird.pipeline.pieces import CHUNK, output_error
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.trial import timed

# What a fresh process that verifies takes, as a multiple of one that imports numpy: it imports PyTorch and
# transformers, and reads a tokenizer, word by word of the vocabulary.
IMPORTS, WORD = 36, 5e-5


@dataclass(frozen=True)
class Handling:
    """Seconds for a weight, and for a file.

    Attributes:
        kept: to read a weight, and to digest and compare what it was packed into.
        checked: to read that back and compare its digest.
        unpacked: to unpack it.
        written: to write a file of so many `weights`, with its facts beside it, until the disk has them.
        weights: that went this way.
    """

    kept: float
    checked: float
    unpacked: float
    written: float
    weights: int

    def writing(self, files: int, weights: int) -> float:
        """Seconds for all files: even a small one waits for the disk."""
        return self.written * max(files, weights / self.weights)


def handling_trial(job: Prepared) -> Handling:
    """Take some rows of the largest part the way of a fitted weight, in a format of the plan."""
    whole = max(job.plan.parts, key=lambda part: part.numel)
    rows = max(1, min(whole.shape[0], CHUNK // whole.shape[1]))
    part = replace(whole, shape=(rows, whole.shape[1]))
    packed = _packed(job.plan.specs[whole.name], rows)
    with TemporaryDirectory(prefix="tailorbird-") as folder:
        file = Path(folder) / "trial.safetensors"
        written = timed(lambda: _write(packed, file))
        checked = timed(lambda: _check(packed, file))
    kept, unpacked = timed(lambda: _keep(job, part, packed)), timed(packed.dequantize)
    return Handling(kept / part.numel, checked / part.numel, unpacked / part.numel, written, part.numel)


def fresh_trial(words: int) -> float:
    """Seconds until a fresh process is ready to verify an artifact with a vocabulary of so many words."""
    command = [sys.executable, "-c", "import numpy"]
    return (IMPORTS + WORD * words) * timed(lambda: subprocess.run(command, check=False, capture_output=True))


def _packed(spec: Spec, rows: int) -> PackedWeight:
    """A weight of ones: what stands in it does not change how long it takes."""
    planned = (spec.formats[0] if isinstance(spec, RowSpec) else spec).plan(rows)
    return planned.with_arrays({name: torch.ones_like(a, device="cpu") for name, a in planned.arrays.items()})


def _write(packed: PackedWeight, file: Path) -> None:
    write(file, packed.arrays)
    write_json(file.with_suffix(".json"), {})


def _keep(job: Prepared, part: Part, packed: PackedWeight) -> None:
    job.model.weight(part)
    weight_digest(packed.meaning())
    output_error(job, part, packed, Stats(), None)


def _check(packed: PackedWeight, file: Path) -> None:
    stored = read_header(file, error=ArtifactError)
    arrays = {name: read_tensor(info, error=ArtifactError) for name, info in stored.items()}
    weight_digest(packed.with_arrays(arrays).meaning())
