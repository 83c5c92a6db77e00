"""Encoding and decoding rows of weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.errors import DataError, UsageError
from tailorbird.formats.ggml.affine import fit_affine, refit_affine
from tailorbird.formats.ggml.blocks import Numbers, pack, unpack, values
from tailorbird.formats.ggml.levels import fit_levels, refit_levels
from tailorbird.formats.ggml.points import fit_points
from tailorbird.formats.ggml.types import TYPES, Affine, BlockType, Codebook, Levels

Steps = tuple[Tensor, Tensor]
# Weights fitted at a time: the arrays of a search stay in the processor's cache.
_PIECE = 2**16


def block_type(name: str) -> BlockType:
    """A block type by name.

    Raises:
        UsageError: there is none of that name; lists those there are.
    """
    if name not in TYPES:
        raise UsageError(f"unknown ggml type {name!r}", hint=f"there are {', '.join(TYPES)}")
    return TYPES[name]


def encode(weight: Tensor, kind: BlockType, importance: Tensor | None = None, grid: Steps | None = None) -> Tensor:
    """Blocks that lose least of the weighted squared error, row by row.

    Args:
        weight: float32 (rows, cols).
        kind: the type.
        importance: float32 (cols,), weight of the columns: the diagonal of the inputs' Gram matrix. None: all the
            same.
        grid: scale and offset the weights are known to have by group of columns, each float32 (rows, groups); one
            more start of the search, so that a type that can hold the weights finds them again.

    Returns:
        uint8 (rows, bytes of a row).

    Raises:
        UsageError: the columns are not whole blocks.
        DataError: weights or importance that are no numbers.
    """
    rows, cols = weight.shape
    importance = _checked(weight, kind, importance)
    count = max(1, _PIECE // max(1, cols))
    near = None if grid is None else _by_sub_block(grid, cols, kind)
    pieces = []
    for start in range(0, rows, count):
        mine = slice(start, start + count)
        known = None if near is None else (near[0][mine], near[1][mine])
        numbers = fit(weight[mine].float(), kind, importance, known)
        pieces.append(pack(numbers, kind).view(len(weight[mine]), -1))
    return torch.cat(pieces) if pieces else torch.empty(0, cols // kind.weights * kind.nbytes, dtype=torch.uint8)


def decode(blocks: Tensor, kind: BlockType) -> Tensor:
    """The weights of rows of blocks, uint8 (rows, bytes of a row): float32 (rows, cols)."""
    rows, nbytes = blocks.shape
    cols = nbytes // kind.nbytes * kind.weights
    raw = blocks.reshape(-1, kind.nbytes)
    step = max(1, 2**20 // kind.weights)
    out = torch.empty(len(raw), kind.weights)
    for start in range(0, len(raw), step):
        out[start : start + step] = values(unpack(raw[start : start + step], kind), kind)
    return out.view(rows, cols)


def fit(weight: Tensor, kind: BlockType, importance: Tensor | None = None, known: Steps | None = None) -> Numbers:
    """The numbers of blocks that lose least.

    Weight is float32 (rows, cols), importance (cols,) or None; known is a scale and offset of every sub-block,
    each (rows, cols / sub).
    """
    w = weight.reshape(-1, kind.subs, kind.sub)
    h = torch.ones(1, 1, 1)
    if importance is not None:
        h = importance.view(1, -1, kind.subs, kind.sub).expand(len(weight), -1, -1, -1).reshape(w.shape)
    if isinstance(kind.grid, Codebook):
        return fit_points(w, h, kind)
    if known is not None:
        known = known[0].reshape(-1, kind.subs), known[1].reshape(-1, kind.subs)
    return fit_levels(w, h, kind, known) if isinstance(kind.grid, Levels) else fit_affine(w, h, kind, known)


def _by_sub_block(grid: Steps, cols: int, kind: BlockType) -> Steps | None:
    """What a group has for each of its sub-blocks; None where a sub-block has several groups."""
    groups = grid[0].shape[1]
    if not groups or cols // groups % kind.sub:
        return None
    times = cols // groups // kind.sub
    return grid[0].repeat_interleave(times, 1), grid[1].repeat_interleave(times, 1)


def refit(numbers: Numbers, sub: int, weight: Tensor, kind: BlockType, importance: Tensor) -> Numbers:
    """The same blocks with the scale (and minimum) of one sub-block chosen anew for weight (rows, sub)."""
    w, h = weight[:, None], importance.view(1, 1, -1)
    if isinstance(kind.grid, Levels):
        return replace(numbers, scales=_put(numbers.scales, sub, refit_levels(w, h, numbers.d, kind.grid)))
    assert numbers.dmin is not None and isinstance(kind.grid, Affine)
    scales, minima = refit_affine(w, h, numbers.d, numbers.dmin, kind.grid)
    return replace(numbers, scales=_put(numbers.scales, sub, scales), minima=_put(numbers.minima, sub, minima))


def _put(values: Tensor | None, column: int, new: Tensor) -> Tensor:
    assert values is not None
    return values.index_copy(1, torch.tensor([column]), new)


def _checked(weight: Tensor, kind: BlockType, importance: Tensor | None) -> Tensor | None:
    cols = weight.shape[1]
    if cols % kind.weights:
        raise UsageError(
            f"rows of {cols} weights are not whole {kind.name} blocks of {kind.weights}",
            hint="choose a type whose block divides the row, for example one with blocks of 32",
        )
    if not torch.isfinite(weight).all():
        raise DataError("the weight has values that are not finite", hint="check the model for NaN and infinity")
    if importance is None:
        return None
    if importance.shape != (cols,) or not torch.isfinite(importance).all() or (importance < 0).any():
        raise DataError(f"the importance must be {cols} finite numbers >= 0", hint="measure it again")
    mean = importance.float().mean()
    # Columns that were never used still get codes near their weights.
    return (importance.float() / mean).clamp_min(1e-6) if mean > 0 else None
