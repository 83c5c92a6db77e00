"""The loop of the compensation sweep: columns rounded in turn, the error of each made up for by later ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def compensate(w: Tensor, upper: Tensor, quantize: Callable[[int, Tensor], Tensor], block: int, inner: int) -> float:
    """Round all columns, which `w` holds as its rows; `w` ends as the weight that the sweep has met.

    Rank-one updates stay inside `inner` columns; these pass their errors on within `block` columns in one product, and
    a block to all later columns in another one.

    Args:
        w: float32 (cols, rows), in sweep order.
        upper: `sweep_factor` of the Gram matrix, in that order.
        quantize: from a column's place and its weights (rows,) to their stored values; when the place is a multiple
            of `inner`, the columns up to the next one have met all earlier errors, and likewise for `block`.
        block: columns of a block.
        inner: columns of an inner step; it divides the block.

    Returns:
        sum e^2 = trace(dW H dW^T), H damped.
    """
    error = 0.0
    for start in range(0, len(w), block):
        stop = min(start + block, len(w))
        errors = _block(w, upper, quantize, start, stop, inner)
        error += errors.square().sum().item()
        w[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return error


def _block(
    w: Tensor, upper: Tensor, quantize: Callable[[int, Tensor], Tensor], start: int, stop: int, inner: int
) -> Tensor:
    errors = torch.empty(stop - start, w.shape[1])
    for low in range(start, stop, inner):
        high = min(low + inner, stop)
        for j in range(low, high):
            e = torch.sub(w[j], quantize(j, w[j]), out=errors[j - start])
            e /= upper[j, j]
            w[j + 1 : high].addr_(upper[j, j + 1 : high], e, alpha=-1)
        w[high:stop].addmm_(upper[low:high, high:stop].T, errors[low - start : high - start], alpha=-1)
    return errors


def strides(group_size: int) -> tuple[int, int]:
    """Columns of a block and of an inner step, such that every group starts where all earlier errors have been
    passed on."""
    block = group_size * (128 // group_size) or _divisor(group_size, 128)
    return block, _divisor(math.gcd(block, group_size), 16)


def _divisor(n: int, most: int) -> int:
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)
