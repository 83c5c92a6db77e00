"""How much memory and how much room on disk a job will need, counted from its parts before it begins."""

from __future__ import annotations

from typing import Any

from tailorbird.anatomy import Part
from tailorbird.kernels import dense
from tailorbird.measure.states import SPILL_BYTES
from tailorbird.measure.statistics import SAMPLE
from tailorbird.method import Method
from tailorbird.pipeline.calibration import BATCH, ESTIMATE
from tailorbird.pipeline.guided import TOKENS as GUIDED
from tailorbird.pipeline.latency import is_here
from tailorbird.pipeline.prepare import Prepared
from tailorbird.runtime import pace
from tailorbird.score.losses import TOP
from tailorbird.score.output import ROWS as OUTPUT_ROWS
from tailorbird.score.output import SLICE
from tailorbird.score.output import TOKENS as OUTPUT_TOKENS
from tailorbird.tune import distill

# Outputs that a method which decides by inputs compares at once, at most, and matrices of them that it holds.
OUTPUTS, COMPARED = 2**26, 3
# What a word of the vocabulary takes in memory: as its file is read, and with a tokenizer in use.
TOKENIZER_READ, TOKENIZER = 700, 1600
# The share of rows in the largest class, where rows are in classes.
CLASS = 0.5
# Bytes on disk for what is known of a part while its job is unfinished.
FACTS = 2048
# Bytes a method that learns holds for a weight: parameters, gradients, the best so far, what the backward pass needs.
LEARNED = 32


def memory_needed(job: Prepared, inner: list[Part], tokens: int, batches: int) -> int:
    """The larger of the two peaks: measuring and fitting a block, or fitting the largest part outside the blocks."""
    needs = job.method.measures
    states = min(SPILL_BYTES, _states(job, inner, tokens)) if needs else 0
    states *= _streams(job)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in job.kept.values())
    blocks: dict[int | None, int] = {}
    grams: dict[int | None, int] = {}
    for part in inner:
        blocks[part.block] = blocks.get(part.block, 0) + 4 * part.numel
    for block, cols in inputs_of(job.plan.parts):
        # The matrix, its damped copy and its factor; the drift; the sampled inputs.
        matrices = 3 + ("drift" in needs)
        grams[block] = grams.get(block, 0) + (4 * matrices * cols**2 + 4 * SAMPLE * cols if needs else 0)
    # Weights in place, their packed form unpacked again to move on, the largest one being worked on.
    block = max((2 * size + grams.get(index, 0) for index, size in blocks.items()), default=0)
    block += max((_working(job, part) for part in inner), default=0)
    if job.method.passes(batches):
        # What is learned, and what the backward pass through a batch needs: inputs and outputs of every part, twice.
        block += LEARNED * max((size // 4 for size in blocks.values()), default=0)
        block += 8 * tokens // batches * sum(sum(part.shape) for part in inner) // max(1, len(blocks))
    outer = [part for part in job.plan.parts if part.block is None]
    copied = 1 + CLASS * job.by_rows
    ends = max((int(4 * copied * part.numel) + _working(job, part) + grams.get(None, 0) for part in outer), default=0)
    read = words(job) * (TOKENIZER if needs else TOKENIZER_READ)
    fitting = states + kept + max(block, ends, _scoring_memory(job, inner))
    others = _guiding_memory(job, inner, tokens, batches), _distilling_memory(job, tokens, batches)
    return int(read + max(fitting, *others, _decoding_memory(job)))


def _decoding_memory(job: Prepared) -> int:
    """A plan in form only, of eight bits at most, and what is decoded in turns with it."""
    if job.budget.milliseconds is None or not is_here(job):
        return 0
    return sum(part.numel for part in job.plan.parts) * 9 // 8 + pace.NBYTES


def _distilling_memory(job: Prepared, tokens: int, batches: int) -> int:
    """The whole model, unpacked and packed, and the original's states; what a window leaves behind in every layer; the
    logits of both models."""
    if not job.method.distill:
        return 0
    inner = [part for part in job.plan.parts if part.block is not None]
    ends = max(part.numel for part in job.plan.parts if part.block is None)
    window = tokens // (BATCH * batches) * sum(sum(part.shape) * part.uses for part in inner)
    logits = 4 * max(distill.PREDICTIONS, distill.COMPARED) * distill.CHUNK
    blocks = dense.learning().itemsize * sum(part.numel for part in inner)
    return blocks + 4 * (ends + window + logits) + 2 * job.plan.code_bytes + _states(job, inner, tokens)


def _guiding_memory(job: Prepared, inner: list[Part], tokens: int, batches: int) -> int:
    """Hidden states between all blocks, where they are not on disk; those behind one and the gradients there; a block's
    weights, and what a window leaves behind in it; rows of the head with the logits of some tokens; what all count."""
    if not job.method.guided:
        return 0
    states, window = _states(job, inner, min(tokens, GUIDED)), tokens // (BATCH * batches)
    blocks = max(1, len({part.block for part in inner}))
    between = states * (blocks + 1) if _between(job, inner, tokens) == 0 else 0
    block = 4 * (sum(part.numel for part in inner) + 2 * window * sum(sum(part.shape) for part in inner)) // blocks
    head = 4 * SLICE * (max(part.shape[1] for part in job.plan.parts if part.block is None) + 3 * OUTPUT_TOKENS)
    return between + 2 * states + max(block, head) + 2 * 4 * tokens * len(inner)


def _between(job: Prepared, inner: list[Part], tokens: int) -> int:
    """Bytes on disk of the hidden states between all blocks, where they are too many for memory."""
    states, places = _states(job, inner, min(tokens, GUIDED)), len({part.block for part in inner}) + 1
    return states * places if job.method.guided and states * places > SPILL_BYTES else 0


def _streams(job: Prepared) -> int:
    """Models whose hidden states are kept: the compressed one's, the original's behind a block and in front of it."""
    return 1 + sum(need in job.method.measures for need in ("reference", "drift"))


def _states(job: Prepared, inner: list[Part], tokens: int) -> int:
    """Bytes of the hidden states between two blocks."""
    widths = [part.shape[1] for part in job.plan.parts if part.role == "embedding"] or [p.shape[1] for p in inner]
    return 4 * tokens * max(widths, default=0)


def disk_needed(job: Prepared, inner: list[Part], tokens: int, attempts: int) -> int:
    """All attempts at the artifact, and the hidden states that are too large for memory."""
    states = _states(job, inner, tokens)
    spilled = _streams(job) * states if job.method.needs and states > SPILL_BYTES else 0
    attempts += job.method.distill > 0
    guide = 4 * tokens * len(inner) * (job.method.guided > 0)
    # States that tell what tokens count are gone before there is anything else.
    return max(attempts * job.nbytes + FACTS * len(job.plan.parts) + guide + spilled, _between(job, inner, tokens))


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
    """Codes, packed planes, the outputs a method compares and the weight it was asked for, beside the weight itself."""
    decides = "inputs" in job.method.needs and type(job.method).decide is not Method.decide
    compared = COMPARED * 4 * min(SAMPLE * part.shape[0], OUTPUTS) if decides else 0
    asked = 4 * part.numel * (job.method.propagate > 0)
    return part.numel + 2 * job.plan.part_bytes(part) + compared + asked


def words(job: Prepared) -> int:
    """Of the vocabulary, where there is a tokenizer."""
    parts = job.plan.parts if job.checkpoint else ()
    return max((part.shape[0] for part in parts if part.role == "embedding"), default=0)


def inputs_of(parts: Any) -> set[tuple[int | None, int]]:
    """Distinct (block, columns): parts that read the same tensor share their statistics."""
    return {(part.block, part.shape[1]) for part in parts}
