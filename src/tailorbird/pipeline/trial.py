"""Short trials that say what this machine does: a matrix product, a method on a small weight, the first block.

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
    width = next((part.shape[1] for part in job.plan.parts if part.role == "embedding"), parts[0].shape[1])

    def rows(ids: Tensor) -> Tensor:
        return torch.randn(*ids.shape, width, generator=torch.Generator().manual_seed(0))

    def took(windows: int) -> tuple[float, float]:
        # Two small windows never are too large for memory: the folder is not used.
        stream = Stream(job.model, [torch.zeros(windows, length, dtype=torch.int64)], rows, Path())
        measured = timed(lambda: stream.measure(0, parts, job.method.needs))
        return measured, timed(lambda: stream.advance(0, {}))

    few, many = took(1), took(1 + MORE)
    measured, forward = (max(0.0, b - a) / (MORE * length) for a, b in zip(few, many, strict=True))
    read = max(0.0, few[1] - forward * length)
    return BlockTrial(read, forward, measured, sum(part.numel * part.uses for part in parts))


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


def fit_trial(method: Method, parts: Any) -> tuple[float, float, float, float]:
    """Seconds for a column of a chunk, for a weight, for an output and column decided on, and for a cubed column."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLE, TRIAL_COLS, generator=generator)
    weight = torch.randn(TRIAL_ROWS[1], TRIAL_COLS, generator=generator)
    cols = TRIAL_COLS
    spec = method.spec(replace(parts[0], name="trial", shape=(TRIAL_ROWS[1], cols)), TRIAL_BITS)
    gram = inputs.T @ inputs
    shared = Stats(gram, inputs, SAMPLE)
    deciding = timed(lambda: method.decide(weight.clone(), shared, spec))
    small, large = (timed(lambda n=rows: _fit(method, weight[:n], shared, spec)) for rows in TRIAL_ROWS)  # type: ignore[misc]
    fresh = timed(lambda: _fit(method, weight[: TRIAL_ROWS[0]], Stats(gram, inputs, SAMPLE), spec))
    each = max(0.0, (large - small) / (TRIAL_ROWS[1] - TRIAL_ROWS[0]))
    fixed = max(0.0, small - each * TRIAL_ROWS[0])
    return fixed / cols, each / cols, deciding / (SAMPLE * TRIAL_ROWS[1] * cols), max(0.0, fresh - small) / cols**3


def _fit(method: Method, weight: Tensor, stats: Stats, spec: Spec) -> None:
    method.fit(weight.clone(), stats, spec).pack()


def timed(work: Callable[[], Any]) -> float:
    """The faster of two runs: the first one also warms up."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def product_rate(side: int = 768, seconds: float = 0.2) -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    one = torch.ones(side, side)
    one @ one
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds:
        one @ one
        count += 1
    return 2.0 * side**3 * max(count, 1) / took
