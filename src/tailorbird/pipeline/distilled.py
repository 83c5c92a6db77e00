"""The last stage of a job that asks for it: all pieces are fitted, and what their rows are multiplied with is learned
end to end (`tailorbird.tune.distill`) before they are written where the artifact will be."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.artifact.layout import Segment
from tailorbird.artifact.manifest import weight_digest
from tailorbird.artifact.partial import LEARNED, TIMED, Partial
from tailorbird.errors import ArtifactError
from tailorbird.files import write_json
from tailorbird.formats import PackedWeight
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.pipeline.calibration import Calibration
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress
from tailorbird.tasks.language import Reference
from tailorbird.tune.distill import Distillation, Student

STATE = "distilled.safetensors"


def distilled(
    job: Prepared,
    data: Calibration,
    fitted: Partial,
    partial: Partial,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
) -> dict[str, str]:
    """Learn, and write every piece anew.

    Args:
        job: with its final plan.
        data: calibration windows; one in `tailorbird.tune.distill.HELD_BACK` compares the passes.
        fitted: where the pieces are.
        partial: where they go. What was learned is kept there after every pass, and a killed job goes on from there.
        seed: of the order of windows.
        progress, clock: as for `compress`.

    Returns:
        Digests of the weights.
    """
    weights: dict[str, str] = {}
    with progress.stage("distill", clock):
        if all(partial.done(piece) for piece in job.pieces):
            return {name: fact["digest"] for piece in job.pieces for name, fact in partial.facts_of(piece).items()}
        student = _learned(job, data, fitted, partial.facts / STATE, seed, progress)
        for piece in job.pieces:
            planes, kept, facts = fitted.planes(piece), fitted.kept(piece), fitted.facts_of(piece)
            if piece.block is not None:
                planes, kept = _with(student, planes, kept)
                facts = {name: fact | {"digest": weight_digest(planes[name].meaning())} for name, fact in facts.items()}
            partial.write(piece, planes, kept, facts)
            weights |= {name: fact["digest"] for name, fact in facts.items()}
        if (fitted.facts / TIMED).exists():
            shutil.copy(fitted.facts / TIMED, partial.facts / TIMED)
    return weights


def _learned(job: Prepared, data: Calibration, fitted: Partial, file: Path, seed: int, progress: Progress) -> Student:
    packed = {name: weight for piece in job.pieces for name, weight in fitted.planes(piece).items()}
    kept = {name: tensor for piece in _blocks(job) for name, tensor in fitted.kept(piece).items()}
    student = Student(job.model, packed, kept)
    windows = torch.cat(list(data.batches))
    course = Distillation(student, Reference.of(job.model, windows), job.method.distill, seed)
    if file.exists():
        header = read_header(file, error=ArtifactError)
        course.load({name: read_tensor(stored, error=ArtifactError) for name, stored in header.items()})
    progress.begin(course.passes - course.turn)
    while course.turn < course.passes:
        course.run(progress.within)
        write(file, course.state())
        progress.advance(f"distilled: divergence {course.losses[0]:.4f} -> {course.losses[-1]:.4f}")
    write_json(file.with_name(LEARNED), course.losses)
    course.finish()
    return student


def _blocks(job: Prepared) -> list[Segment]:
    return [piece for piece in job.pieces if piece.block is not None]


def _with(
    student: Student, planes: Mapping[str, PackedWeight], kept: Mapping[str, Tensor]
) -> tuple[dict[str, PackedWeight], dict[str, Tensor]]:
    """A block as it was learned."""
    with torch.no_grad():
        scaled = {name: packed.scaled(student.factors[name].exp()) for name, packed in planes.items()}
        return scaled, {name: student.vector(name).to(tensor.dtype) for name, tensor in kept.items()}
