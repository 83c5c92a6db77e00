"""Fitting one piece of a model: measure its parts' inputs, decide formats, fit, pack."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.manifest import weight_digest
from tailorbird.formats import PackedWeight, PlaneSpec
from tailorbird.measure.statistics import Stats
from tailorbird.measure.stream import Stream
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress

# Weights compared at once, so that the comparison takes little memory beside the weight itself.
CHUNK = 2**22


def fit_piece(
    job: Prepared, piece: Segment, stream: Stream | None, progress: Progress, clock: dict[str, float]
) -> tuple[dict[str, PackedWeight], dict[str, dict[str, Any]]]:
    """Fit the parts of a piece.

    Returns:
        Packed weights and facts (error, seconds, bytes, digest) by part name.
    """
    with progress.stage("measure", clock):
        stats = statistics(job, piece, stream)
    planes: dict[str, PackedWeight] = {}
    facts: dict[str, dict[str, Any]] = {}
    for part in piece.parts:
        with progress.stage("fit", clock):
            # Statistics and the original weight go as soon as they were used; the stream fills the block anew.
            planes[part.name], facts[part.name] = _fit(job, part, stats.pop(part.name, Stats()))
    return planes, facts


def statistics(job: Prepared, piece: Segment, stream: Stream | None) -> dict[str, Stats]:
    """Statistics by part; the input embedding has none: each of its inputs is one row."""
    if stream is None or not piece.parts:
        return {}
    if piece.block is not None:
        return stream.measure(piece.block, piece.parts, job.method.needs)
    return dict.fromkeys((part.name for part in piece.parts), stream.head_inputs(job.method.needs))


def _fit(job: Prepared, part: Part, stats: Stats) -> tuple[PackedWeight, dict[str, Any]]:
    start = time.perf_counter()
    weight = job.model.weight(part)
    if job.method.needs and stats.gram is None and stats.inputs is None:
        stats = Stats(torch.eye(part.shape[1]), torch.eye(part.shape[1]), part.shape[1])
    planned = job.plan.specs[part.name]
    # A plan given by hand keeps bits written group by group; one number leaves the inner choice to the method.
    fixed = job.given and isinstance(planned, PlaneSpec) and planned.mixed
    fixed |= job.rules.tied(part)
    spec = planned if fixed else job.method.decide(weight, stats, planned)
    if spec.plan(part.shape[0]).nbytes > job.plan.part_bytes(part) or not job.rules.allows(part, spec):
        spec = planned
    fitted = job.method.fit(weight, stats, spec)
    del weight
    job.model.drop(part.name)
    planes = fitted.pack()
    facts = {
        "error": _error(job, part, planes, stats),
        "bytes": planes.nbytes,
        "digest": weight_digest(fitted.meaning()),
        "seconds": time.perf_counter() - start,
    }
    if (claimed := getattr(fitted, "claimed_bits", None)) is not None:
        facts["claimed_bits"] = claimed
    return planes, facts


def _error(job: Prepared, part: Part, planes: PackedWeight, stats: Stats) -> float:
    """Relative output error trace(dW H dW^T) / trace(W H W^T); H = I without statistics."""
    lost, whole = 0.0, 0.0
    step = max(1, CHUNK // part.shape[1])
    for low in range(0, part.shape[0], step):
        high = min(low + step, part.shape[0])
        weight = job.model.read_rows(part, low, high).float()
        lost += _energy(weight - planes.dequantize(low, high), stats.gram)
        whole += _energy(weight, stats.gram)
    return lost / whole if whole else 0.0


def _energy(weight: Tensor, gram: Tensor | None) -> float:
    return float((weight * (weight if gram is None else weight @ gram)).sum())
