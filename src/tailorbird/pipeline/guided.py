"""What calibration tokens count in the fits of a job that asks for it: one pass through the original, first of all."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.artifact.partial import Partial
from tailorbird.errors import ArtifactError
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.pipeline.calibration import Calibration
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress
from tailorbird.score.guide import Guide, guide, shared

FILE = "guide.safetensors"
# Tokens that go through the original and back, at most: a large vocabulary makes them dear.
TOKENS = 2**14


def guided(
    job: Prepared, data: Calibration, partial: Partial, seed: int, progress: Progress, clock: dict[str, float]
) -> Guide:
    """The tokens' weights, from the job's folder where a killed job has left them there.

    Args:
        job: of a language model, turned as it will be fitted.
        data: calibration windows.
        partial: where the weights are kept until the job is done.
        seed: of the labels.
        progress, clock: as for `compress`.
    """
    file, states = partial.facts / FILE, partial.facts / "states" / "guide"
    with progress.stage("guide", clock):
        if not file.exists():
            progress.begin(1)
            write(file, _found(job, torch.cat(list(data.batches)), states, seed, progress))
            shutil.rmtree(states, ignore_errors=True)
            progress.advance("what tokens count")
        header = read_header(file, error=ArtifactError)
        found = {name: read_tensor(stored, error=ArtifactError) for name, stored in header.items()}
        return shared(found, job.method.guided)


def _found(job: Prepared, windows: Tensor, states: Path, seed: int, progress: Progress) -> Guide:
    """The guide of windows taken evenly from all. The others have none: they count by the share that is alike."""
    every = -(-windows.numel() // TOKENS)
    taken = windows[::every]
    found = guide(job.model, taken, states, seed, progress.within)
    weights = {name: torch.zeros(windows.shape) for name in found}
    for name, some in found.items():
        weights[name][::every] = some * (len(windows) / len(taken))
    return weights
