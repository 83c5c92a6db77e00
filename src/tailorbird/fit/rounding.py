"""Rounding whole weights on the ranges of their groups, all groups at once."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.fit.groups import Fitter, minmax
from tailorbird.formats.grid import Grid
from tailorbird.formats.spec import PlaneSpec

# Numbers worked on at once; they stay in the processor's cache.
CHUNK = 2**18


def ranges(groups: Tensor, spec: PlaneSpec, fitter: Fitter = minmax) -> tuple[Tensor, Tensor]:
    """Scales and offsets, both (rows, groups), of weights (rows, groups, size); not yet rounded to what is stored."""
    found = [fitter(groups[:, g].T, bits, spec.offset) for g, bits in enumerate(spec.bits)]
    return torch.stack([scale for scale, _ in found], 1), torch.stack([offset for _, offset in found], 1)


def nearest(groups: Tensor, scale: Tensor, offset: Tensor, spec: PlaneSpec) -> tuple[Tensor, Tensor]:
    """Nearest codes, as floats, and their values, both (rows, groups, size); scale and offset are (rows, groups)."""
    top = torch.tensor([2.0**bits - 1 for bits in spec.bits])[:, None]
    scale, offset = scale[:, :, None], offset[:, :, None]
    codes = torch.minimum((groups - offset).div_(scale).round_().clamp_(min=0), top)
    return codes, torch.addcmul(offset, codes, scale)


def rounded(weight: Tensor, spec: PlaneSpec) -> Tensor:
    """The values of a weight, float32 (rows, cols), rounded to the nearest codes of the min-max ranges as they are
    stored."""
    done = []
    for rows in torch.split(weight, max(1, CHUNK // weight.shape[1])):
        groups = rows.reshape(len(rows), -1, spec.group_size)
        grid = Grid.store(*ranges(groups, spec), spec)
        done.append(nearest(groups, *grid.values(), spec)[1].view(rows.shape))
    return torch.cat(done)
