"""How long a job will take and how much memory it will need, before it begins.

Work is counted (products, swept weights, bytes) and divided by what this machine does in a short trial: one matrix
product, and the method itself fitting a small random weight. docs/cli.md says how good that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.formats import Spec
from tailorbird.kernels import dense
from tailorbird.measure.block import Block
from tailorbird.measure.states import SPILL_BYTES
from tailorbird.measure.statistics import SAMPLE, Stats
from tailorbird.method import Method
from tailorbird.pipeline.allocation import MASKED
from tailorbird.pipeline.calibration import ESTIMATE, HELD_BACK
from tailorbird.pipeline.prepare import Prepared, fitted_first
from tailorbird.pipeline.turn import ROWS, TOKENS
from tailorbird.plan import Plan
from tailorbird.score.losses import TOP
from tailorbird.score.mask import MASKS
from tailorbird.score.output import ROWS as OUTPUT_ROWS
from tailorbird.transform.learn import BATCH, STEPS

TRIAL_COLS = 512
TRIAL_ROWS = (128, 1024)
TRIAL_BITS = 4
LEARN_ROWS = (64, 512)
# Outputs a method that asks for inputs compares at once, at most.
OUTPUTS = 2**26
# Bytes a second at which weights are read, converted, digested and written.
STREAMING = 400e6
# Seconds in which a fresh process imports what verifying needs.
FRESH = 5.0
# Weights a second that are rounded to nearest.
ROUNDING = 50e6
# A forward pass does less than one large product does in the same time.
FORWARD = 0.6
# Learning does more of them on the same few weights.
LEARNING = 0.75
# Bytes a method that learns holds for a weight: parameters, gradients, the best so far, what the backward pass needs.
LEARNED = 32


@dataclass(frozen=True)
class Estimate:
    """What a job will need.

    Attributes:
        seconds: by stage: rotate (where a rotation is learned), measure, fit, score (of parts and formats), verify
            (with packing), evaluate.
        total_seconds: their sum.
        memory_bytes: peak, above what the interpreter with its libraries takes.
    """

    seconds: dict[str, float]
    total_seconds: float
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def smallest(job: Prepared) -> Prepared:
    """The same job at one bit a weight: the smallest with these options."""
    specs = {part.name: job.spec(part, 1) for part in job.plan.parts}
    return replace(job, plan=Plan(job.plan.method, job.plan.options, job.plan.parts, specs))


@dense.fast()
def estimate(job: Prepared, tokens: int, evaluated: int = 0, batches: int = 1) -> Estimate:
    """Seconds and bytes of memory of a job on this machine; takes a second or two itself.

    Args:
        job: what was prepared.
        tokens: of calibration text.
        evaluated: predictions the evaluation afterwards scores, by the original and by the artifact.
        batches: in which the calibration text comes.
    """
    rate = _product_rate()
    inner = [part for part in job.plan.parts if part.block is not None]
    numel = sum(part.numel for part in inner)
    weights = job.plan.numel
    seconds = {
        "measure": _measuring(job, inner, tokens, rate) if job.method.needs else 0.0,
        "fit": _fitting(job, rate) + _tuning(job, inner, tokens, batches, rate),
        "score": _scoring(job, inner, rate),
        "verify": FRESH + 4 * weights / STREAMING,
        "evaluate": 2 * (2 * evaluated * weights / (FORWARD * rate) + 4 * weights / STREAMING) if evaluated else 0.0,
    }
    seconds["measure"] += 2 * 4 * numel / STREAMING
    if job.method.rotate == "learned":
        seconds["rotate"] = _learning(job, inner, tokens, rate)
    return Estimate(seconds, sum(seconds.values()), _memory(job, inner, tokens, batches))


def _learning(job: Prepared, inner: list[Part], tokens: int, rate: float) -> float:
    """Two forward passes of every block, and the products of every step, forwards and backwards."""
    wide = job.model.parts[0].shape[1]
    steps = STEPS * 6.0 * BATCH * (ROWS + TOKENS) * wide**2 if job.method.rotate_residual else 0.0
    return (steps + 2 * 2.0 * tokens * sum(part.numel * part.uses for part in inner) / FORWARD) / rate


def _measuring(job: Prepared, inner: list[Part], tokens: int, rate: float) -> float:
    """Two forward passes of every block, three with the uncompressed model's, half a one before a tied embedding; and
    the products of the Gram matrices."""
    runs = 2 + ("reference" in job.method.needs) + 0.5 * any(map(fitted_first, job.pieces))
    products = runs * 2.0 * tokens * sum(part.numel * part.uses for part in inner) / FORWARD
    if "gram" in job.method.needs:
        products += 2.0 * tokens * sum(cols**2 for _, cols in _inputs(job.plan.parts))
    return products / rate


def _scoring(job: Prepared, inner: list[Part], rate: float) -> float:
    """Forward, back and the errors of every format over the blocks; the head three times, and in every probe; a part
    rounded in every format."""
    if not job.undecided:
        return 0.0
    blocks = sum(part.numel * part.uses for part in inner)
    head = max((part.numel for part in job.plan.parts if part.role in ("embedding", "head")), default=0)
    roles = len({part.role for part in job.plan.parts})
    if job.allocate == "ohq":
        products = 2.0 * MASKED * MASKS * len(job.plan.parts) * (blocks / 2 + head)
    else:
        products = 2.0 * ESTIMATE * ((3 + TOP) * blocks + 3 * head) + 2.0 * HELD_BACK * (roles + 3) * (
            blocks + 2 * head
        )
        products += 2.0 * ESTIMATE * (blocks + head) * job.by_rows
    return products / (FORWARD * rate) + TOP * blocks / ROUNDING


def _fitting(job: Prepared, rate: float) -> float:
    fixed, each, deciding, factor = _trial(job.method, job.plan.parts)
    total = 0.0
    alone = not job.method.passes(1)
    for part in job.plan.parts:
        rows, cols = part.shape
        if job.method.needs and rows * cols:
            total += deciding * min(SAMPLE * rows, OUTPUTS) * cols
        if alone or part.block is None:
            total += cols * (fixed * -(-rows // 2048) + each * rows)
            total += rows * cols**2 / rate if job.method.needs else 0.0
    return total + factor * sum(cols**3 for _, cols in _inputs(job.plan.parts))


def _tuning(job: Prepared, inner: list[Part], tokens: int, batches: int, rate: float) -> float:
    """Passes over the calibration data, and what else is done with every weight."""
    passes, numel = job.method.passes(batches), sum(part.numel for part in inner)
    if not passes or not inner:
        return 0.0
    small, large = (_timed(lambda n=rows: _tune(job.method, inner[0], n)) for rows in LEARN_ROWS)  # type: ignore[misc]
    each = max(0.0, large - small) / ((LEARN_ROWS[1] - LEARN_ROWS[0]) * TRIAL_COLS)
    return numel * (each + passes * 2.0 * tokens / (LEARNING * rate))


def _tune(method: Method, like: Part, rows: int) -> None:
    """Learn a block of one layer and one token: next to no forward pass."""
    part = replace(like, name="trial", shape=(rows, TRIAL_COLS))
    generator = torch.Generator().manual_seed(0)
    weight, one = (torch.randn(*shape, TRIAL_COLS, generator=generator) for shape in ((rows,), (1, 1)))
    stats = {"trial": Stats(torch.eye(TRIAL_COLS), torch.eye(TRIAL_COLS), TRIAL_COLS)}

    def forward(hidden: Tensor, replaced: Mapping[str, Tensor]) -> Tensor:
        return hidden @ replaced.get("trial.weight", weight).T

    block = Block(0, [part], {"trial": weight}, {}, stats, [one], [one @ weight.T], 0, forward)
    method.tune(block, {"trial": method.spec(part, TRIAL_BITS)})


def _inputs(parts: Any) -> set[tuple[int | None, int]]:
    """Distinct (block, columns): parts that read the same tensor share their statistics."""
    return {(part.block, part.shape[1]) for part in parts}


def _trial(method: Method, parts: Any) -> tuple[float, float, float, float]:
    """Seconds for a column of a chunk, for a weight, for an output and column decided on, and for a cubed column."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLE, TRIAL_COLS, generator=generator)
    weight = torch.randn(TRIAL_ROWS[1], TRIAL_COLS, generator=generator)
    cols = TRIAL_COLS
    spec = method.spec(replace(parts[0], name="trial", shape=(TRIAL_ROWS[1], cols)), TRIAL_BITS)
    gram = inputs.T @ inputs
    shared = Stats(gram, inputs, SAMPLE)
    deciding = _timed(lambda: method.decide(weight.clone(), shared, spec))
    small, large = (_timed(lambda n=rows: _fit(method, weight[:n], shared, spec)) for rows in TRIAL_ROWS)  # type: ignore[misc]
    fresh = _timed(lambda: _fit(method, weight[: TRIAL_ROWS[0]], Stats(gram, inputs, SAMPLE), spec))
    each = max(0.0, (large - small) / (TRIAL_ROWS[1] - TRIAL_ROWS[0]))
    fixed = max(0.0, small - each * TRIAL_ROWS[0])
    return fixed / cols, each / cols, deciding / (SAMPLE * TRIAL_ROWS[1] * cols), max(0.0, fresh - small) / cols**3


def _fit(method: Method, weight: Tensor, stats: Stats, spec: Spec) -> None:
    method.fit(weight.clone(), stats, spec).pack()


def _timed(work: Callable[[], Any]) -> float:
    """The faster of two runs: the first one also warms up."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def _product_rate(side: int = 768, seconds: float = 0.2) -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    one = torch.ones(side, side)
    one @ one
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds:
        one @ one
        count += 1
    return 2.0 * side**3 * max(count, 1) / took


def _memory(job: Prepared, inner: list[Part], tokens: int, batches: int) -> int:
    """The larger of the two peaks: measuring and fitting a block, or fitting the largest part outside the blocks."""
    needs = job.method.needs
    states = min(SPILL_BYTES, 4 * tokens * max((part.shape[1] for part in inner), default=0)) if needs else 0
    states *= 1 + ("reference" in needs)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in job.kept.values())
    blocks: dict[int | None, int] = {}
    grams: dict[int | None, int] = {}
    for part in inner:
        blocks[part.block] = blocks.get(part.block, 0) + 4 * part.numel
    for block, cols in _inputs(job.plan.parts):
        # The matrix, its damped copy and its factor; the sampled inputs.
        grams[block] = grams.get(block, 0) + (12 * cols**2 + 4 * SAMPLE * cols if needs else 0)
    # Weights in place, their packed form unpacked again to move on, the largest one being worked on.
    block = max((2 * size + grams.get(index, 0) for index, size in blocks.items()), default=0)
    block += max((_working(job, part) for part in inner), default=0)
    if job.method.passes(batches):
        # What is learned, and what the backward pass through a batch needs: inputs and outputs of every part, twice.
        block += LEARNED * max((size // 4 for size in blocks.values()), default=0)
        block += 8 * tokens // batches * sum(sum(part.shape) for part in inner) // max(1, len(blocks))
    outer = [part for part in job.plan.parts if part.block is None]
    ends = max((4 * part.numel + _working(job, part) + grams.get(None, 0) for part in outer), default=0)
    return int(states + kept + max(block, ends, _scoring_memory(job, inner)))


def _scoring_memory(job: Prepared, inner: list[Part]) -> int:
    """Hidden states between all blocks, a block with its parts' inputs and gradients, and a part's errors by format."""
    if not job.undecided:
        return 0
    blocks: dict[int | None, tuple[int, int]] = {}
    for part in inner:
        weights, sides = blocks.get(part.block, (0, 0))
        blocks[part.block] = weights + part.numel, sides + sum(part.shape)
    width = max((part.shape[1] for part in job.plan.parts if part.role == "embedding"), default=0)
    errors = max((part.numel for part in inner), default=0)
    head = max(
        (min(part.shape[0], OUTPUT_ROWS) * part.shape[1] for part in job.plan.parts if part.block is None), default=0
    )
    each = max((weights + ESTIMATE * sides for weights, sides in blocks.values()), default=0)
    return 4 * (ESTIMATE * width * (len(blocks) + 1) + max(each + (TOP + 2) * errors, (TOP + 2) * head))


def _working(job: Prepared, part: Part) -> int:
    """Codes, packed planes and the outputs a method compares, beside the weight itself."""
    compared = 3 * 4 * min(SAMPLE * part.shape[0], OUTPUTS) if "inputs" in job.method.needs else 0
    return part.numel + 2 * job.plan.part_bytes(part) + compared
