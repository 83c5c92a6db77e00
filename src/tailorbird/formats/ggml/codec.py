"""Encoding and decoding rows of weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.errors import DataError, UsageError
from tailorbird.formats.ggml.affine import fit_affine, refit_affine
from tailorbird.formats.ggml.blocks import Numbers, pack, unpack, values
from tailorbird.formats.ggml.levels import fit_levels, refit_levels
from tailorbird.formats.ggml.types import TYPES, BlockType, Levels

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


def encode(weight: Tensor, kind: BlockType, importance: Tensor | None = None) -> Tensor:
    """Blocks that lose least of the weighted squared error, row by row.

    Args:
        weight: float32 (rows, cols).
        kind: the type.
        importance: float32 (cols,), weight of the columns: the diagonal of the inputs' Gram matrix. None: all the
            same.

    Returns:
        uint8 (rows, bytes of a row).

    Raises:
        UsageError: the columns are not whole blocks.
        DataError: weights or importance that are no numbers.
    """
    rows, cols = weight.shape
    importance = _checked(weight, kind, importance)
    count = max(1, _PIECE // max(1, cols))
    pieces = [_encode(weight[a : a + count].float(), kind, importance) for a in range(0, rows, count)]
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


def fit(weight: Tensor, kind: BlockType, importance: Tensor | None = None) -> Numbers:
    """The numbers of blocks that lose least; weight is float32 (rows, cols), importance (cols,) or None."""
    w = weight.reshape(-1, kind.subs, kind.sub)
    h = torch.ones(1, 1, 1)
    if importance is not None:
        h = importance.view(1, -1, kind.subs, kind.sub).expand(len(weight), -1, -1, -1).reshape(w.shape)
    return fit_levels(w, h, kind) if isinstance(kind.grid, Levels) else fit_affine(w, h, kind)


def refit(numbers: Numbers, sub: int, weight: Tensor, kind: BlockType, importance: Tensor) -> Numbers:
    """The same blocks with the scale (and minimum) of one sub-block chosen anew for weight (rows, sub)."""
    w, h = weight[:, None], importance.view(1, 1, -1)
    if isinstance(kind.grid, Levels):
        return replace(numbers, scales=_put(numbers.scales, sub, refit_levels(w, h, numbers.d, kind.grid)))
    assert numbers.dmin is not None
    scales, minima = refit_affine(w, h, numbers.d, numbers.dmin, kind.grid)
    return replace(numbers, scales=_put(numbers.scales, sub, scales), minima=_put(numbers.minima, sub, minima))


def _put(values: Tensor | None, column: int, new: Tensor) -> Tensor:
    assert values is not None
    return values.index_copy(1, torch.tensor([column]), new)


def _encode(weight: Tensor, kind: BlockType, importance: Tensor | None) -> Tensor:
    return pack(fit(weight, kind, importance), kind).view(len(weight), -1)


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
