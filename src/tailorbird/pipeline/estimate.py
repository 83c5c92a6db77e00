"""How long a job will take, how much memory and how much room on disk it will need, before it begins.

Work is counted (products, swept weights, bytes) and multiplied by what it took in short trials (`pipeline.trial`,
`pipeline.handling`): one matrix product, the method itself fitting some of the model's weights, the first block, and
the way of a weight from the checkpoint to the verified artifact. docs/cli.md says how good that is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from tailorbird.anatomy import Part
from tailorbird.kernels import dense
from tailorbird.measure.statistics import SAMPLE
from tailorbird.pipeline.allocation import MASKED
from tailorbird.pipeline.calibration import BATCH, ESTIMATE, HELD_BACK, PROBED
from tailorbird.pipeline.footprint import OUTPUTS, disk_needed, inputs_of, memory_needed, words
from tailorbird.pipeline.guided import TOKENS as GUIDED
from tailorbird.pipeline.handling import fresh_trial, handling_trial
from tailorbird.pipeline.latency import is_here
from tailorbird.pipeline.memory import keep_little
from tailorbird.pipeline.prepare import Prepared, fitted_first
from tailorbird.pipeline.trial import (
    LEARN_ROWS,
    TRIAL_COLS,
    block_trial,
    fit_trial,
    product_rate,
    timed,
    transform_trial,
    tune_trial,
)
from tailorbird.pipeline.turn import ROWS, TOKENS
from tailorbird.plan import Plan
from tailorbird.runtime import pace
from tailorbird.score.losses import TOP
from tailorbird.score.mask import MASKS
from tailorbird.transform.learn import BATCH as LEARN_BATCH
from tailorbird.transform.learn import STEPS
from tailorbird.tune import distill

# Bytes a second at which weights are read and converted.
STREAMING = 400e6
# Weights a second that are rounded to nearest.
ROUNDING = 50e6
# A forward pass does less than one large product does in the same time.
FORWARD = 0.6
# What is between the products of learning takes this much of their time in float32, whatever they are made in.
BETWEEN = 0.45
# Where codes have at most so many bits, learning bears mixed precision in most blocks; with 4 in some of them.
MIXED = 3.5
# Plans that are decoded with until one takes the milliseconds asked, and once it is fitted; and what reading a prompt
# takes each time, in tokens.
DECODED, PROMPT = 5, 2
# Tokens of a window in the trial, at most.
WINDOW = 512


@dataclass(frozen=True)
class Estimate:
    """What a job will need.

    Attributes:
        seconds: by stage: rotate (where a rotation is learned), guide (where tokens have weights), measure, fit, pack,
            score (of parts and formats), distill (where the finished model learns), verify, evaluate.
        total_seconds: their sum.
        memory_bytes: peak, above what the interpreter with its libraries takes.
        disk_bytes: most that is on disk at once: the artifact in the making, and what does not fit into memory.
    """

    seconds: dict[str, float]
    total_seconds: float
    memory_bytes: int
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def smallest(job: Prepared) -> Prepared:
    """The same job at one bit a weight: the smallest with these options."""
    specs = {part.name: job.spec(part, 1) for part in job.plan.parts}
    return replace(job, plan=Plan(job.plan.method, job.plan.options, job.plan.parts, specs))


@dense.fast()
def estimate(job: Prepared, tokens: int, evaluated: int = 0, batches: int = 1, attempts: int = 1) -> Estimate:
    """Seconds and bytes of a job on this machine; takes a few seconds itself.

    Args:
        job: what was prepared.
        tokens: of calibration text.
        evaluated: predictions the evaluation afterwards scores, by the original and by the artifact.
        batches: in which the calibration text comes.
        attempts: plans that are fitted, at most, where bits are shared out by measured losses.
    """
    # As the job will, so that a large block of memory costs what it will cost then.
    keep_little()
    rate, handling = product_rate(), handling_trial(job)
    inner = [part for part in job.plan.parts if part.block is not None]
    weights = job.plan.numel
    seconds = {
        "measure": _measuring(job, inner, tokens, batches, rate) if job.method.needs else 0.0,
        "fit": _fitting(job, rate) + _tuning(job, inner, tokens, batches, rate) + handling.kept * weights,
        "pack": handling.writing(len(job.pieces), weights),
        "score": _scoring(job, inner, rate) + _decoding(job),
        "verify": fresh_trial(words(job))
        + handling.checked * weights
        + handling.unpacked * sum(part.numel for part in inner),
        "evaluate": 2 * (2 * evaluated * weights / (FORWARD * rate) + 4 * weights / STREAMING) if evaluated else 0.0,
    }
    if _searched(job):
        seconds["fit"] += _transforming(job, inner, tokens, batches)
    if job.method.rotate == "learned":
        seconds["rotate"] = _learning(job, inner, tokens, rate)
    if job.method.guided:
        seconds["guide"] = _guiding(job, inner, tokens, rate)
    if job.method.distill:
        seconds["distill"] = _distilling(job, inner, tokens, batches, rate) + handling.unpacked * weights
    attempts = _attempts(job, attempts)
    for stage in ("measure", "fit", "pack"):
        seconds[stage] *= attempts
    memory, disk = memory_needed(job, inner, tokens, batches), disk_needed(job, inner, tokens, attempts)
    return Estimate(seconds, sum(seconds.values()), memory, disk)


def _window(tokens: int, batches: int) -> int:
    """Tokens of a window in the trial."""
    return max(1, min(WINDOW, tokens // (BATCH * batches)))


def _searched(job: Prepared) -> bool:
    """Blocks are transformed before they are fitted."""
    return bool(job.method.transforms and job.checkpoint and job.model.anatomy.blocks)


def _transforming(job: Prepared, inner: list[Part], tokens: int, batches: int) -> float:
    first = sum(part.numel for part in inner if part.block == 0)
    return transform_trial(job, _window(tokens, batches)) * sum(part.numel for part in inner) / first if first else 0.0


def _attempts(job: Prepared, attempts: int) -> int:
    """Plans that are fitted, at most; see `tailorbird.pipeline.refine`."""
    weighed = job.method.needs and job.allocate != "ohq" and not job.method.transforms
    more = (attempts - 1 if weighed else 0) + (job.budget.milliseconds is not None)
    return 1 + more if job.undecided else 1


def _decoding(job: Prepared) -> float:
    """Plans in form only, in turns with the products of the pace."""
    asked = job.budget.milliseconds
    if asked is None or job.profile is None or not is_here(job):
        return 0.0
    turn = 1e-3 * ((pace.TOKENS + PROMPT) * float(asked) + job.profile.pace)
    return DECODED * (pace.TURNS * turn + job.plan.code_bytes / STREAMING)


def _learning(job: Prepared, inner: list[Part], tokens: int, rate: float) -> float:
    """Two forward passes of every block, and the products of every step, forwards and backwards."""
    wide = job.model.parts[0].shape[1]
    steps = STEPS * 6.0 * LEARN_BATCH * (ROWS + TOKENS) * wide**2 if job.method.rotate_residual else 0.0
    return (steps + 2 * 2.0 * tokens * sum(part.numel * part.uses for part in inner) / FORWARD) / rate


def _guiding(job: Prepared, inner: list[Part], tokens: int, rate: float) -> float:
    """Blocks twice forwards and once back, which without gradients of weights is as much; the head once each way."""
    head = next(part.numel for part in reversed(job.plan.parts) if part.block is None)
    products = 3 * sum(part.numel * part.uses for part in inner) + 2 * head
    return 2.0 * min(tokens, GUIDED) * products / (FORWARD * rate)


def _distilling(job: Prepared, inner: list[Part], tokens: int, batches: int, rate: float) -> float:
    """The original once; every pass forwards and back through the blocks, and four products with the head for some
    predictions of a window; windows held back forwards, after each pass and before."""
    blocks = sum(part.numel * part.uses for part in inner)
    head = next(part.numel for part in reversed(job.plan.parts) if part.block is None)
    windows, passes = batches * BATCH, job.method.distill
    held = -(-windows // distill.HELD_BACK)
    step = 4.0 * tokens / windows * blocks + 8.0 * distill.PREDICTIONS * head
    look = 2.0 * tokens / windows * blocks + 8.0 * distill.COMPARED * head
    products = 2.0 * tokens * blocks + passes * (windows - held) * step + (passes + 1) * held * look
    return products / (FORWARD * rate)


def _measuring(job: Prepared, inner: list[Part], tokens: int, batches: int, rate: float) -> float:
    """Two forward passes of every block, one of them with statistics; three with the uncompressed model's; half a one
    before a tied embedding."""
    # Where errors are propagated, the trial has the uncompressed model's pass in it.
    more = ("reference" in job.method.needs) + 0.5 * any(map(fitted_first, job.pieces))
    work = sum(part.numel * part.uses for part in inner)
    trial = block_trial(job, _window(tokens, batches))
    if trial is not None:
        each = trial.measured + (1 + more) * trial.forward
        return work / trial.work * (tokens * each + (2 + more) * trial.read)
    products = (2 + more) * 2.0 * tokens * work / FORWARD
    if "gram" in job.method.needs:
        products += 2.0 * tokens * sum(cols**2 for _, cols in inputs_of(job.plan.parts))
    return products / rate + 2 * 4 * sum(part.numel for part in inner) / STREAMING


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
        probes = PROBED * (roles + 1) + HELD_BACK * 3
        products = 2.0 * ESTIMATE * ((3 + TOP) * blocks + 3 * head) + 2.0 * probes * (blocks + 2 * head)
        products += 2.0 * ESTIMATE * (blocks + head) * job.by_rows
    return products / (FORWARD * rate) + TOP * blocks / ROUNDING


def _fitting(job: Prepared, rate: float) -> float:
    """Parts in the blocks, and beside them: their weights are of different kinds."""
    inside = [part for part in job.plan.parts if part.block is not None]
    beside = [part for part in job.plan.parts if part.block is None]
    return sum(_fitting_like(job, parts, rate) for parts in (inside, beside) if parts) + _comparing(job, rate)


def _comparing(job: Prepared, rate: float) -> float:
    """Products for the errors of the fitted weights, and for what the rows of a head are worth."""
    products = 0.0
    for part in job.plan.parts:
        if "gram" in job.method.needs:
            products += 4.0 * part.numel * part.shape[1]
        if job.by_rows and (part.role == "head" or part.tied):
            products += 2.0 * SAMPLE * part.numel / FORWARD
    return products / rate


def _fitting_like(job: Prepared, parts: list[Part], rate: float) -> float:
    fixed, each, deciding, factor = fit_trial(job, max(parts, key=lambda part: part.numel))
    total = 0.0
    alone = not job.method.passes(1)
    for part in parts:
        rows, cols = part.shape
        if job.method.needs and rows * cols:
            total += deciding * min(SAMPLE * rows, OUTPUTS) * cols
        if alone or part.block is None:
            total += cols * (fixed * -(-rows // 2048) + each * rows)
            total += rows * cols**2 / rate if job.method.needs else 0.0
    return total + factor * sum(cols**3 for _, cols in inputs_of(parts))


def _tuning(job: Prepared, inner: list[Part], tokens: int, batches: int, rate: float) -> float:
    """Passes over the calibration data, and what else is done with every weight."""
    passes, numel = job.method.passes(batches), sum(part.numel for part in inner)
    if not passes or not inner:
        return 0.0
    small, large = (timed(lambda n=rows: tune_trial(job.method, inner[0], n)) for rows in LEARN_ROWS)  # type: ignore[misc]
    each = max(0.0, large - small) / ((LEARN_ROWS[1] - LEARN_ROWS[0]) * TRIAL_COLS)
    bits = sum(job.plan.specs[part.name].mean_bits * part.numel for part in inner) / numel
    operation = 1 / (product_rate(dense.learning()) if bits <= MIXED else rate) + BETWEEN / rate
    return numel * (each + passes * 2.0 * tokens * operation)
