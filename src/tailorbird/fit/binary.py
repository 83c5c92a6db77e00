"""Binarizers: signs with magnitudes by row (Huang et al., BiLLM, arXiv 2402.04291).

Weights stand with columns first, ``x`` (group, rows), as everywhere in a sweep; each row has magnitudes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Binary:
    """One binary weight: ``values = mean + magnitude * sign`` where the mask is true, else 0.

    Attributes:
        sign: -1 or 1, (group, rows); 0 counts as positive.
        magnitude: (rows,).
        mean: (rows,), 0 without a mean shift.
        mask: bool (group, rows).
    """

    sign: Tensor
    magnitude: Tensor
    mean: Tensor
    mask: Tensor

    @property
    def values(self) -> Tensor:
        """What stands for the weights."""
        return torch.where(self.mask, self.mean + self.magnitude * self.sign, 0.0)


def binarize(x: Tensor, mask: Tensor | None = None, shift: bool = False) -> Binary:
    """The signs of the masked weights around zero, or around their mean, and the mean magnitude, which is optimal."""
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand_as(x)
    count = mask.sum(0).clamp_min(1)
    mean = (x * mask).sum(0) / count if shift else torch.zeros(x.shape[1])
    centred = x - mean
    magnitude = (centred.abs() * mask).sum(0) / count
    return Binary(torch.where(centred >= 0, 1.0, -1.0), magnitude, mean, mask)


def residual(x: Tensor, order: int, mask: Tensor | None = None, shift: bool = False) -> list[Binary]:
    """Residual binarization R_order: each binary weight stands for what the ones before leave."""
    found: list[Binary] = []
    for _ in range(order):
        found.append(binarize(x, mask, shift))
        x = x - found[-1].values
    return found


def total(parts: Sequence[Binary]) -> Tensor:
    """Values of a sum."""
    return torch.stack([part.values for part in parts]).sum(0)


def split(x: Tensor, threshold: Tensor, domain: Tensor, shift: bool = False) -> tuple[Binary, Binary]:
    """The bell-shaped split: weights below and from a threshold on, each with magnitudes of their own.

    Args:
        x: the weights.
        threshold: a number.
        domain: |domain| is compared with it; the weights themselves or their salience, (group, rows).
        shift: keep means.
    """
    near = domain.abs() < threshold
    return binarize(x, near, shift), binarize(x, ~near, shift)


def best_threshold(domain: Tensor, candidates: Tensor, shift: bool = False) -> Tensor:
    """Of some thresholds the one whose split of `domain` itself loses least; one for all rows."""
    errors = [(domain - total(split(domain, t, domain, shift))).square().sum() for t in candidates]
    return candidates[int(torch.stack(errors).argmin())]


def thresholds(domain: Tensor, quantiles: bool) -> Tensor:
    """Candidates: a tenth to nine tenths of the largest magnitude (the paper), or 81 quantiles (its code)."""
    size = domain.abs()
    if not quantiles:
        return size.max() * torch.arange(1, 10) / 10
    # torch.quantile refuses more than 16 million numbers.
    ranked = size.flatten().sort().values
    return ranked[(torch.linspace(0.1, 0.9, 81) * (len(ranked) - 1)).round().long()]
