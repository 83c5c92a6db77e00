"""From a Gram matrix to the factor the compensation sweep reads."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.errors import DataError, UsageError


def damped(gram: Tensor, damp: float) -> tuple[Tensor, Tensor]:
    """Make a Gram matrix positive definite.

    Args:
        gram: float32 (cols, cols), H = sum of x x^T.
        damp: part of the mean diagonal added to it (GPTQ: 0.01).

    Returns:
        The damped copy and the dead columns (bool (cols,)): inputs that were never anything but zero; their
        diagonal is set to 1.
    """
    gram = gram.clone()
    diagonal = gram.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean()
    diagonal += damp * (mean if mean > 0 else torch.ones(()))
    diagonal[dead] = 1.0
    return gram, dead


def sweep_factor(gram: Tensor, damp: float = 0.01) -> tuple[Tensor, Tensor]:
    """Upper Cholesky factor U of the inverse of the damped Gram matrix (GPTQ, arXiv 2210.17323, step "Cholesky
    reformulation").

    Computed in place where it can be: a Gram matrix of a wide layer is the largest thing in memory. A factor that
    fails is tried again with ten times the damping, up to a damping of 10.

    Returns:
        U, float32 (cols, cols), and the dead columns, bool (cols,).

    Raises:
        UsageError: damp is negative, above 10 or no number.
        DataError: the Gram matrix has values that are no numbers, so the calibration data or the model is broken.
    """
    if not torch.isfinite(gram.diagonal()).all():
        raise DataError(
            "calibration statistics are not finite", hint="check the model for NaN and the calibration text"
        )
    if not 0 <= damp <= 10:
        raise UsageError(f"damp={damp} is not between 0 and 10", hint="0.01 is usual")
    while damp <= 10:
        matrix, dead = damped(gram, damp)
        lower, info = torch.linalg.cholesky_ex(matrix, out=(matrix, torch.empty((), dtype=torch.int32)))
        if not info:
            inverse = torch.cholesky_inverse(lower, out=matrix)
            upper, info = torch.linalg.cholesky_ex(inverse, upper=True)
            if not info and torch.isfinite(upper.diagonal()).all():
                return upper, dead
        damp = max(10 * damp, 1e-4)
    raise DataError("calibration statistics are singular even with damping 10", hint="use more calibration text")
