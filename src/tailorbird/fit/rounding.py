"""Rounding whole weights on the ranges of their groups, all groups at once."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.fit.groups import Fitter, minmax
from tailorbird.formats.grid import stored
from tailorbird.formats.spec import PlaneSpec

# Numbers worked on at once; they stay in the processor's cache.
CHUNK = 2**18


def ranges(groups: Tensor, spec: PlaneSpec, fitter: Fitter = minmax) -> tuple[Tensor, Tensor]:
    """Scales and offsets, both (rows, groups), of weights (rows, groups, size); not yet rounded to what is stored."""
    scale, offset = torch.empty(groups.shape[:2]), torch.empty(groups.shape[:2])
    for bits, at in spec.runs:
        mine = groups if len(at) == len(spec.bits) else groups[:, at]
        found = fitter(mine.reshape(-1, spec.group_size).T, bits, spec.offset)
        scale[:, at], offset[:, at] = (one.view(-1, len(at)) for one in found)
    return scale, offset


def nearest(groups: Tensor, scale: Tensor, offset: Tensor, spec: PlaneSpec) -> tuple[Tensor, Tensor]:
    """Nearest codes, as floats, and their values, both (rows, groups, size); scale and offset are (rows, groups)."""
    scale, offset = scale[:, :, None], offset[:, :, None]
    codes = (groups - offset).div_(scale).round_().clamp_(0, 2.0 ** max(spec.bits) - 1)
    if spec.mixed:
        torch.minimum(codes, torch.tensor([2.0**bits - 1 for bits in spec.bits])[:, None], out=codes)
    return codes, (codes * scale).add_(offset)


def rounded(weight: Tensor, spec: PlaneSpec) -> Tensor:
    """The values of a weight, float32 (rows, cols), rounded to the nearest codes of the min-max ranges as they are
    stored."""
    done = []
    for rows in torch.split(weight, max(1, CHUNK // weight.shape[1])):
        groups = rows.reshape(len(rows), -1, spec.group_size)
        done.append(nearest(groups, *stored(*ranges(groups, spec), spec), spec)[1].view(rows.shape))
    return torch.cat(done)
