"""Short trials that say what this machine does: a matrix product, a method on some weights, the first block.

The estimate (`pipeline.estimate`) multiplies what they took by the work of a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.formats import Spec
from tailorbird.measure.block import Block
from tailorbird.measure.statistics import SAMPLE, Stats
from tailorbird.measure.stream import Stream
from tailorbird.method import Method
from tailorbird.pipeline.prepare import Prepared

TRIAL_COLS = 512
TRIAL_ROWS = (128, 1024)
TRIAL_BITS = 4
LEARN_ROWS = (64, 512)
# Windows more, in the longer of two runs through a block.
MORE = 4


@dataclass(frozen=True)
class BlockTrial:
    """Seconds that the first block took.

    Attributes:
        read: to bring its weights in.
        forward: for a token.
        measured: for a token, with statistics of what its parts read.
        work: products of a token, so that other blocks can be told from it.
    """

    read: float
    forward: float
    measured: float
    work: int


def block_trial(job: Prepared, length: int) -> BlockTrial | None:
    """Run windows of so many tokens through the first block; None where the model has no blocks of tokens."""
    parts = [part for part in job.plan.parts if part.block == 0]
    if job.checkpoint is None or not job.model.anatomy.blocks or not parts:
        return None

    def took(windows: int) -> tuple[float, float]:
        stream = _stream(job, windows, length)
        measured = timed(lambda: stream.measure(0, parts, job.method.measures))
        return measured, timed(lambda: stream.advance(0, {}))

    few, many = took(1), took(1 + MORE)
    measured, forward = (max(0.0, b - a) / (MORE * length) for a, b in zip(few, many, strict=True))
    read = max(0.0, few[1] - forward * length)
    return BlockTrial(read, forward, measured, sum(part.numel * part.uses for part in parts))


def transform_trial(job: Prepared, length: int) -> float:
    """Seconds the method's transform takes for the first block, on a window of so many tokens."""
    piece = next(piece for piece in job.pieces if piece.block == 0)
    method, times = job.method.shortened()
    stream = _stream(job, 1, length)
    stats = stream.measure(0, piece.parts, method.needs)
    kept = {name: job.kept[name] for name in piece.kept}
    block = stream.block(0, piece.parts, stats, kept, 0, lambda done, total: None, job.plan.specs)
    # Once is enough: measuring has warmed up what it runs.
    took = timed(lambda: method.transform(block), 1)
    job.model.drop(job.model.blocks[0])
    return times * took


def _stream(job: Prepared, windows: int, length: int) -> Stream:
    """Random states in front of the first block."""
    width = next(part.shape[1] for part in job.plan.parts if part.role == "embedding" or part.block == 0)

    def rows(ids: Tensor) -> Tensor:
        return torch.randn(*ids.shape, width, generator=torch.Generator().manual_seed(0))

    # A few small windows never are too large for memory: the folder is not used.
    ids, drift = torch.zeros(windows, length, dtype=torch.int64), "drift" in job.method.measures
    guide = {part.name: torch.ones(windows, length) for part in job.plan.parts} if job.method.guided else None
    return Stream(job.model, [ids], rows, Path(), rows if drift else None, drift, guide)


def tune_trial(method: Method, like: Part, rows: int) -> None:
    """Learn a block of one layer and one token: next to no forward pass."""
    part = replace(like, name="trial", shape=(rows, TRIAL_COLS))
    generator = torch.Generator().manual_seed(0)
    weight, one = (torch.randn(*shape, TRIAL_COLS, generator=generator) for shape in ((rows,), (1, 1)))
    stats = {"trial": Stats(torch.eye(TRIAL_COLS), torch.eye(TRIAL_COLS), TRIAL_COLS)}

    def forward(hidden: Tensor, replaced: Mapping[str, Tensor]) -> Tensor:
        return hidden @ replaced.get("trial.weight", weight).T

    block = Block(0, [part], {"trial": weight}, {}, stats, [one], [one @ weight.T], 0, forward)
    method.tune(block, {"trial": method.spec(part, TRIAL_BITS)})


def fit_trial(job: Prepared, like: Part) -> tuple[float, float, float, float]:
    """Seconds for a column of a chunk, for a weight, for an output and column decided on, and for a cubed column; all
    of weights like a part's."""
    method = job.method
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLE, TRIAL_COLS, generator=generator)
    weight, cols = _weights(job, like, TRIAL_ROWS[1]), TRIAL_COLS
    spec = method.spec(replace(like, name="trial", shape=(TRIAL_ROWS[1], cols)), TRIAL_BITS)
    gram = inputs.T @ inputs
    shared = Stats(gram, inputs, SAMPLE)
    deciding = timed(lambda: method.decide(weight.clone(), shared, spec))
    small, large = (timed(lambda n=rows: _fit(method, weight[:n], shared, spec)) for rows in TRIAL_ROWS)  # type: ignore[misc]
    fresh = timed(lambda: _fit(method, weight[: TRIAL_ROWS[0]], Stats(gram, inputs, SAMPLE), spec))
    each = max(0.0, (large - small) / (TRIAL_ROWS[1] - TRIAL_ROWS[0]))
    fixed = max(0.0, small - each * TRIAL_ROWS[0])
    return fixed / cols, each / cols, deciding / (SAMPLE * TRIAL_ROWS[1] * cols), max(0.0, fresh - small) / cols**3


def _weights(job: Prepared, part: Part, rows: int) -> Tensor:
    """Weights from the middle of a part, float32 (rows, TRIAL_COLS): what is solved round by round takes as many as
    the weights ask for. Neighbours stay neighbours, so that groups are those of the part."""
    count = rows * TRIAL_COLS
    most = min(part.shape[0], -(-count // part.shape[1]))
    low = (part.shape[0] - most) // 2
    values = job.model.read_rows(part, low, low + most).float().flatten()
    return values.repeat(-(-count // len(values)))[:count].view(rows, TRIAL_COLS)


def _fit(method: Method, weight: Tensor, stats: Stats, spec: Spec) -> None:
    method.fit(weight.clone(), stats, spec).pack()


def timed(work: Callable[[], Any], runs: int = 2) -> float:
    """The fastest of some runs: the first one also warms up."""
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def product_rate(dtype: torch.dtype = torch.float32, side: int = 768, seconds: float = 0.2) -> float:
    """Floating-point operations a second of a matrix product on this machine."""
    one = torch.ones(side, side, dtype=dtype)
    one @ one
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds:
        one @ one
        count += 1
    return 2.0 * side**3 * max(count, 1) / took
