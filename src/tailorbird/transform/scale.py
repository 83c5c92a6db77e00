"""Channel scales, folded: the inputs of some layers are divided by s, their columns multiplied by it (AWQ, arXiv
2306.00978; SmoothQuant, arXiv 2211.10438)."""

from __future__ import annotations

import torch
from torch import Tensor


def into_norm(weight: Tensor, scales: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Divide the gains of a norm by s.

    Args:
        weight: the norm's, as it is stored; its gain is weight + 1 - unit.
        scales: float32 (channels,), positive.
        unit: see `Wiring`.

    Returns:
        The new weight in the dtype it is stored in, and the scales that its rounding leaves, float32: the columns that
        these multiply make up for it. A channel without gain, or one that would lose it, keeps what it has.
    """
    gain = weight.double() + 1 - unit
    folded = (gain / scales.double() - 1 + unit).to(weight.dtype)
    left = folded.double() + 1 - unit
    sound = (left != 0) & (gain != 0) & torch.isfinite(left)
    folded = torch.where(sound, folded, weight)
    return folded, torch.where(sound, gain / torch.where(sound, left, 1.0), 1.0).float()


def columns(weight: Tensor, scales: Tensor) -> Tensor:
    """Columns times s, float32."""
    return (weight.double() * scales.double()).float()


def rows(weight: Tensor, scales: Tensor) -> Tensor:
    """Rows divided by s, float32."""
    return (weight.double() / scales.double()[:, None]).float()
