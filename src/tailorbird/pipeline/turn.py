"""Learning the rotation of a model (SpinQuant) before its pieces are fitted.

One pass of the calibration data through the model as the random rotation left it gives what every layer reads; R2 of a
block is learned as the block is met, R1 of the residual stream at the end, from samples of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.formats import affine
from tailorbird.measure.statistics import Stats, measured
from tailorbird.measure.stream import Stream
from tailorbird.method import group_of
from tailorbird.pipeline.calibration import Calibration, original_rows
from tailorbird.pipeline.prepare import Prepared, kept_of
from tailorbird.transform.learn import Reader, Term, Writer, learn
from tailorbird.transform.rotate import Rotated, laid_out, wiring_of
from tailorbird.transform.rotation import Rotation

# What stands for a whole layer: rows, groups of columns, and tokens.
ROWS = 128
GROUPS = 4
TOKENS = 128
NEEDS = frozenset({"inputs"})


def learned(job: Prepared, data: Calibration, folder: Path) -> Prepared:
    """The job with its rotations learned.

    Args:
        job: whose model is rotated at random.
        data: calibration windows.
        folder: where states go that are too large for memory.
    """
    turn = job.model.weights
    assert isinstance(turn, Rotated)
    stream = Stream(job.model, data.batches, original_rows(job, data), folder)
    seed = job.method.rotate_seed
    heads, terms = dict(turn.heads), _ends(job, stream) if turn.residual else []
    for index, block in enumerate(job.model.blocks):
        parts = [part for part in job.model.parts if part.block == index]
        stats = stream.measure(index, parts, NEEDS)
        if block in heads:
            heads[block] = _on(heads[block], _head_terms(job, block, heads[block].order, stats), seed)
        if turn.residual:
            terms += _block_terms(job, block, stats)
        job.model.drop(block)
        stream.advance(index, {})
    if turn.residual:
        head = [part for part in job.model.parts if part.role == "head" or part.tied]
        terms += [_reader(job, part, stream.head_inputs(NEEDS)) for part in head]
    residual = _on(turn.residual, terms, seed) if turn.residual else None
    model = laid_out(turn.model, residual, heads)
    return replace(job, model=model, kept=kept_of(model, job.pieces))


def _on(start: Rotation, terms: Sequence[Term], seed: int) -> Rotation:
    """A rotation, and what is learned on top of it."""
    return Rotation.dense(start.matrix() @ learn(terms, start.order, seed))


def _ends(job: Prepared, stream: Stream) -> list[Term]:
    """The embedding, each of whose inputs is one row."""
    part = job.model.parts[0]
    if part.tied:
        return []
    rows = job.model.gather(part.tensor, _even(part.shape[0], ROWS))
    return [Reader(rows.float(), None, _size(job, part, part.shape[1]))]


def _block_terms(job: Prepared, block: str, stats: dict[str, Stats]) -> list[Term]:
    """Readers and writers of the residual stream in one block, whose weights are in place."""
    wiring, terms = wiring_of(job.model), list[Term]()
    readers = [name for names in wiring.norms.values() for name in names]
    for part in _parts(job.model, block, readers):
        terms.append(_reader(job, part, stats[part.name]))
    for part in _parts(job.model, block, wiring.writers):
        size = _size(job, part, part.shape[1])
        columns = (_even(part.shape[1] // size, GROUPS)[:, None] * size + torch.arange(size)).flatten()
        inputs = _tokens(stats[part.name])[:, columns]
        terms.append(Writer(job.model.weight(part)[:, columns], inputs, size))
    return terms


def _head_terms(job: Prepared, block: str, order: int, stats: dict[str, Stats]) -> list[Term]:
    """Values and their reader in one block, head by head."""
    terms = list[Term]()
    for names in wiring_of(job.model).values:
        value, output = _parts(job.model, block, names)
        inputs = _tokens(stats[value.name])
        for rows in torch.split(job.model.weight(value), order):
            terms.append(Writer(rows, inputs, _size(job, value, value.shape[1])))
        weight = job.model.weight(output)[_even(output.shape[0], ROWS)]
        inputs = _tokens(stats[output.name])
        for columns in torch.split(torch.arange(output.shape[1]), order):
            terms.append(Reader(weight[:, columns], inputs[:, columns], _size(job, output, order)))
    return terms


def _reader(job: Prepared, part: Part, stats: Stats) -> Reader:
    step = _even(part.shape[0], ROWS)
    placed = job.model.module.get_submodule(part.name).get_parameter("weight")
    rows = job.model.gather(part.tensor, step).float() if placed.is_meta else placed.data[step]
    return Reader(rows, _tokens(stats), _size(job, part, part.shape[1]))


def _parts(model: Model, block: str, names: Sequence[str]) -> list[Part]:
    """The parts of these names that a block has, in order of the names."""
    own = {part.name: part for part in model.parts}
    return [own[f"{block}.{name}"] for name in names if f"{block}.{name}" in own]


def _size(job: Prepared, part: Part, within: int) -> int:
    return group_of(within, affine(job.plan.specs[part.name]).group_size)


def _tokens(stats: Stats) -> Tensor:
    inputs = measured(stats.inputs)
    return inputs[_even(len(inputs), TOKENS)]


def _even(count: int, most: int) -> Tensor:
    """At most so many places, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()
