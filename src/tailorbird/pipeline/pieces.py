"""Fitting one piece of a model: measure its parts' inputs, decide formats, fit, pack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tailorbird.allocate.rows import by_rows, fit_rows, ranked
from tailorbird.anatomy import Part
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.manifest import weight_digest
from tailorbird.formats import Fit, PackedWeight, PlaneSpec, RowSpec, Spec
from tailorbird.measure.rows import predicted, read
from tailorbird.measure.statistics import Stats
from tailorbird.measure.stream import Stream
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress

# Weights compared at once, so that the comparison takes little memory beside the weight itself.
CHUNK = 2**22


def fit_piece(
    job: Prepared,
    piece: Segment,
    stream: Stream | None,
    progress: Progress,
    clock: dict[str, float],
    tokens: Sequence[Tensor] = (),
) -> tuple[dict[str, PackedWeight], dict[str, dict[str, Any]]]:
    """Fit the parts of a piece; `tokens` are the ids of the calibration text.

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
            planes[part.name], facts[part.name] = _fit(job, part, stats.pop(part.name, Stats()), tokens)
    return planes, facts


def statistics(job: Prepared, piece: Segment, stream: Stream | None) -> dict[str, Stats]:
    """Statistics by part; the input embedding has none: each of its inputs is one row."""
    if stream is None or not piece.parts:
        return {}
    if piece.block is not None:
        return stream.measure(piece.block, piece.parts, job.method.needs)
    needs = job.method.needs | ({"inputs"} if job.method.rows else set())
    return dict.fromkeys((part.name for part in piece.parts), stream.head_inputs(needs))


def _fit(job: Prepared, part: Part, stats: Stats, tokens: Sequence[Tensor]) -> tuple[PackedWeight, dict[str, Any]]:
    start = time.perf_counter()
    weight = job.model.weight(part)
    planned = job.plan.specs[part.name]
    by_worth = isinstance(planned, RowSpec) or (job.method.rows and not _fixed(job, part, planned))
    importance = _importance(job, part, weight, stats, tokens) if by_worth else None
    if job.method.needs and stats.gram is None and stats.inputs is None:
        stats = Stats(torch.eye(part.shape[1]), torch.eye(part.shape[1]), part.shape[1])
    classes = planned if isinstance(planned, RowSpec) else _classes(job, part, importance)
    fit = partial(_fitted, job, part, stats)
    fitted = fit(weight, planned) if classes is None else fit_rows(weight, ranked(importance, classes), classes, fit)
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


def _importance(job: Prepared, part: Part, weight: Tensor, stats: Stats, tokens: Sequence[Tensor]) -> Tensor | None:
    """What each row of an embedding or a head is worth; None for other parts, and without calibration text."""
    head, embedding = job.model.anatomy.head, job.model.anatomy.embedding
    found = []
    if head and head in (part.name, *part.tied) and stats.inputs is not None:
        cap = float(job.model.config.get("final_logit_softcapping") or 0)
        found.append(predicted(weight, stats.inputs, cap))
    if embedding and embedding in (part.name, *part.tied) and len(tokens):
        found.append(read(tokens, part.shape[0]))
    return torch.stack(found).sum(0) if found else None


def _classes(job: Prepared, part: Part, importance: Tensor | None) -> RowSpec | None:
    """Classes of rows in the bytes of the planned format, where their importance is known and classes are allowed."""
    if importance is None:
        return None
    found = by_rows(importance, partial(job.method.spec, part), job.plan.part_bytes(part))
    return found if found is not None and job.rules.allows(part, found) else None


def _fitted(job: Prepared, part: Part, stats: Stats, weight: Tensor, planned: Spec) -> Fit:
    """Some rows of a part, in the format the method decides on unless that is fixed."""
    spec = planned if _fixed(job, part, planned) else job.method.decide(weight, stats, planned)
    rows = len(weight)
    if spec.plan(rows).nbytes > planned.plan(rows).nbytes or not job.rules.allows(part, spec):
        spec = planned
    return job.method.fit(weight, stats, spec)


def _fixed(job: Prepared, part: Part, spec: Spec) -> bool:
    """The format stays as planned. A plan given by hand keeps bits written group by group; one number leaves the inner
    choice to the method."""
    return (job.given and isinstance(spec, PlaneSpec) and spec.mixed) or job.rules.tied(part)


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
