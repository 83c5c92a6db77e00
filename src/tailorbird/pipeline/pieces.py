"""Fitting one piece of a model: measure its parts' inputs, decide formats, fit, pack."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tailorbird.allocate.rows import by_rows, fit_rows, ranked
from tailorbird.anatomy import Part
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.manifest import weight_digest
from tailorbird.fit.propagate import DAMP, propagated
from tailorbird.formats import Fit, PackedWeight, PlaneSpec, RowSpec, Spec, TrellisSpec, above_eight, eight
from tailorbird.measure.block import Block
from tailorbird.measure.rows import predicted, read
from tailorbird.measure.statistics import Stats
from tailorbird.measure.stream import Stream
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress

# Weights compared at once, so that the comparison takes little memory beside the weight itself.
CHUNK = 2**22
# What reading a row of a tied embedding as it is weighs, in mean squares of what the head reads. With gptq at 2 bits
# the embedding alone costs a KL of 0.111 on text held back with 1, 0.114 with 0.1, 0.125 without, 0.135 with 10.
TIED = 1.0


@dataclass
class FittedPiece:
    """What is written of a piece.

    Attributes:
        planes: packed weights by part name.
        kept: tensors stored as they are, by tensor name.
        facts: error, seconds, bytes and digest by part name.
    """

    planes: dict[str, PackedWeight]
    kept: dict[str, Tensor]
    facts: dict[str, dict[str, Any]]


def fit_piece(
    job: Prepared,
    piece: Segment,
    stream: Stream | None,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
    tokens: Tensor | None = None,
) -> FittedPiece:
    """Fit the parts of a piece; `seed` is the job's, in `tokens`, the ids of a text, words are counted."""
    with progress.stage("measure", clock):
        stats = statistics(job, piece, stream)
    found = FittedPiece({}, {name: job.kept[name] for name in piece.kept}, {})
    if stream is not None and piece.block is not None and "block" in job.method.needs:
        _fit_block(job, piece, stream, stats, found, seed, progress, clock)
        return found
    for part in piece.parts:
        with progress.stage("fit", clock):
            start = time.perf_counter()
            # Statistics and the original weight go as soon as they were used; the stream fills the block anew.
            mine = stats.pop(part.name, Stats())
            weight = job.model.weight(part)
            moved = None
            if mine.drift is not None:
                moved = propagated(weight, mine.drift, mine.factor(DAMP)[0], job.method.propagate)
                weight = moved.clone()
            fitted = _fit(job, part, weight, mine, tokens)
            del weight
            job.model.drop(part.name)
            _pack(job, part, fitted, mine, found, start, moved)
    return found


def _fit_block(
    job: Prepared,
    piece: Segment,
    stream: Stream,
    stats: dict[str, Stats],
    found: FittedPiece,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
) -> None:
    """Fit the parts of a block that the method sees as a whole."""
    index = piece.block
    assert index is not None

    def seen() -> Block:
        mine = _seed(seed, index)
        return stream.block(index, piece.parts, stats, found.kept, mine, progress.within, job.plan.specs)

    with progress.stage("fit", clock):
        transformed = job.method.transform(seen())
        replaced = _checked(transformed.tensors, piece, found.kept)
        if replaced:
            found.kept |= {name: tensor for name, tensor in replaced.items() if name in found.kept}
            stats = transformed.stats(stats)
            job.model.fill(job.model.blocks[index], replaced=replaced)
        start = time.perf_counter()
        block = seen()
        specs = {
            part.name: _decide(job, part, block.weights[part.name], stats[part.name], job.plan.specs[part.name])
            for part in piece.parts
        }
        tuned = job.method.tune(block, {name: eight(spec) for name, spec in specs.items()})
        # The time of all together goes to each by its size.
        pace = (time.perf_counter() - start) / sum(part.numel for part in piece.parts)
        for part in piece.parts:
            start = time.perf_counter() - pace * part.numel
            mine, weight = stats[part.name], replaced.get(part.tensor)
            # A fit may overwrite the weight in place, but not the one its error is measured against.
            own = block.weights[part.name] if weight is None else weight.clone()
            known = None if above_eight(specs[part.name]) else tuned.get(part.name)
            fitted = known or job.method.fitted(own, mine, specs[part.name])
            _pack(job, part, fitted, mine, found, start, weight)


def _seed(seed: int, block: int) -> int:
    """A seed of its own for every block of a job, whether earlier blocks were made in this process or not."""
    return int.from_bytes(hashlib.sha256(f"{seed} {block}".encode()).digest()[:7], "big")


def _checked(replaced: Mapping[str, Tensor], piece: Segment, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a transform gave, if it fits into what is stored.

    Raises:
        ValueError: a tensor is not the block's, or has another shape or dtype.
    """
    shapes = {part.tensor: part.shape for part in piece.parts} | {name: tuple(kept[name].shape) for name in piece.kept}
    for name, tensor in replaced.items():
        dtype = kept[name].dtype if name in kept else torch.float32
        if shapes.get(name) != tuple(tensor.shape) or tensor.dtype != dtype:
            raise ValueError(f"a transform gave {name} as {tensor.dtype} {tuple(tensor.shape)}")
    return dict(replaced)


def statistics(job: Prepared, piece: Segment, stream: Stream | None) -> dict[str, Stats]:
    """Statistics by part; the input embedding has none: each of its inputs is one row."""
    if stream is None or not piece.parts:
        return {}
    if piece.block is not None:
        return stream.measure(piece.block, piece.parts, job.method.measures)
    needs = job.method.measures | ({"inputs"} if job.method.rows else set())
    return dict.fromkeys((part.name for part in piece.parts), stream.head_inputs(needs))


def _some(job: Prepared, part: Part, stats: Stats) -> Stats:
    """Statistics of a part beside a block. Where a method needs some and a part has none: inputs that are all alike.
    Rows of a tied embedding are read as they are, too: there all columns count alike, beside what the head reads."""
    if job.method.needs and stats.gram is None and stats.inputs is None:
        return Stats(torch.eye(part.shape[1]), torch.eye(part.shape[1]), part.shape[1])
    if stats.gram is not None and part.tied:
        alike = TIED * stats.gram.diagonal().mean()
        return Stats(stats.gram + alike * torch.eye(part.shape[1]), stats.inputs, stats.count)
    return stats


def _fit(job: Prepared, part: Part, weight: Tensor, stats: Stats, tokens: Tensor | None) -> Fit:
    """A part by itself; rows of an embedding or a head in classes, where that is wanted."""
    planned = job.plan.specs[part.name]
    by_worth = isinstance(planned, RowSpec) or (job.method.rows and not _fixed(job, part, planned))
    worth = importance(job, part, weight, stats, tokens) if by_worth else None
    classes = planned if isinstance(planned, RowSpec) else _classes(job, part, worth)
    fit = partial(_fitted, job, part, _some(job, part, stats))
    return fit(weight, planned) if classes is None else fit_rows(weight, ranked(worth, classes), classes, fit)


def _decide(job: Prepared, part: Part, weight: Tensor, stats: Stats, planned: Spec) -> Spec:
    """The method's inner choice for some rows of a part, where plan and target leave it one."""
    spec = planned if _fixed(job, part, planned) else job.method.decide(weight, stats, planned)
    rows = len(weight)
    if spec.plan(rows).nbytes > planned.plan(rows).nbytes or not job.rules.allows(part, spec):
        return planned
    return spec


def _fixed(job: Prepared, part: Part, spec: Spec) -> bool:
    """The format stays as planned. A plan given by hand keeps bits written group by group; one number leaves the inner
    choice to the method, which has none above eight bits."""
    by_group = job.given and isinstance(spec, PlaneSpec | TrellisSpec) and spec.mixed
    return by_group or job.rules.tied(part) or above_eight(spec)


def _fitted(job: Prepared, part: Part, stats: Stats, weight: Tensor, planned: Spec) -> Fit:
    """Some rows of a part, in the format the method decides on unless that is fixed."""
    return job.method.fitted(weight, stats, _decide(job, part, weight, stats, planned))


def _pack(
    job: Prepared,
    part: Part,
    fitted: Fit,
    stats: Stats,
    found: FittedPiece,
    start: float,
    weight: Tensor | None = None,
) -> None:
    """Pack a part; `weight` is what was fitted where it is not the original's."""
    planes = fitted.pack()
    found.planes[part.name] = planes
    found.facts[part.name] = {
        "error": output_error(job, part, planes, stats, weight),
        "bytes": planes.nbytes,
        "digest": weight_digest(fitted.meaning()),
        "seconds": time.perf_counter() - start,
    }
    if (claimed := getattr(fitted, "claimed_bits", None)) is not None:
        found.facts[part.name]["claimed_bits"] = claimed


def importance(job: Prepared, part: Part, weight: Tensor, stats: Stats, tokens: Tensor | None) -> Tensor | None:
    """What each row of an embedding or a head is worth; None for other parts, and without calibration text."""
    head, embedding = job.model.anatomy.head, job.model.anatomy.embedding
    found = []
    if head and head in (part.name, *part.tied) and stats.inputs is not None:
        cap = float(job.model.config.get("final_logit_softcapping") or 0)
        found.append(predicted(weight, stats.inputs, cap))
    if embedding and embedding in (part.name, *part.tied) and tokens is not None and len(tokens):
        found.append(read(tokens, part.shape[0]))
    return torch.stack(found).sum(0) if found else None


def _classes(job: Prepared, part: Part, worth: Tensor | None) -> RowSpec | None:
    """Classes of rows in the bytes of the planned format, where their importance is known and classes are allowed."""
    if worth is None:
        return None
    found = by_rows(worth, partial(job.method.spec, part), job.plan.part_bytes(part))
    return found if found is not None and job.rules.allows(part, found) else None


def output_error(job: Prepared, part: Part, planes: PackedWeight, stats: Stats, fitted: Tensor | None) -> float:
    """Relative output error trace(dW H dW^T) / trace(W H W^T); H = I without statistics."""
    lost, whole = 0.0, 0.0
    step = max(1, CHUNK // part.shape[1])
    for low in range(0, part.shape[0], step):
        high = min(low + step, part.shape[0])
        weight = job.model.read_rows(part, low, high).float() if fitted is None else fitted[low:high]
        lost += _energy(weight - planes.dequantize(low, high), stats.gram)
        whole += _energy(weight, stats.gram)
    return lost / whole if whole else 0.0


def _energy(weight: Tensor, gram: Tensor | None) -> float:
    return float((weight * (weight if gram is None else weight @ gram)).sum())
