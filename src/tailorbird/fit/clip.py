"""Clip search: for every row and group the largest magnitude that is kept, by the error at the outputs (AWQ, arXiv
2306.00978)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.fit.rounding import CHUNK, nearest, ranges, rounded
from tailorbird.formats.grid import stored
from tailorbird.formats.spec import PlaneSpec

STEPS = 10
STEP = 1 / 20


def clipped(weight: Tensor, gram: Tensor, spec: PlaneSpec) -> Tensor:
    """The weight with every group clamped to max|w| (1 - i / 20), i = 0 .. 9, whichever loses least when it is rounded.

    The loss of a row of a group is that of the group's own outputs, e G e^T with G the group's block of the Gram
    matrix. Errors of clipping add up where groups' inputs go together, so that a row whose outputs lose more than
    without stays as it is.

    Args:
        weight: float32 (rows, cols).
        gram: float32 (cols, cols), H = sum of x x^T.
        spec: the format.
    """
    # With halves for scales: what 8-bit ones come to, only the whole row decides.
    alone = replace(spec, scale="fp16", column_order=False)
    size, starts = spec.group_size, range(0, spec.cols, spec.group_size)
    own = torch.stack([gram[low : low + size, low : low + size] for low in starts])
    found = []
    for rows in torch.split(weight, max(1, CHUNK // weight.shape[1])):
        clamped = _clamped(rows.view(len(rows), -1, size), own, alone).view(rows.shape)
        before, after = (_loss(rounded(one, spec) - rows, gram) for one in (rows, clamped))
        found.append(torch.where(after < before, clamped, rows))
    return torch.cat(found)


def _loss(error: Tensor, gram: Tensor) -> Tensor:
    """e G e^T by row, (..., rows, 1)."""
    return (error @ gram).mul_(error).sum(-1, keepdim=True)


def _clamped(weight: Tensor, own: Tensor, spec: PlaneSpec) -> Tensor:
    """Groups (rows, groups, size) clamped where they lose least; `own` are their blocks of the Gram matrix."""
    reach = weight.abs().amax(2, keepdim=True)
    least, best = torch.full_like(reach, torch.inf), reach
    for i in range(STEPS):
        limit = reach * (1 - i * STEP)
        kept = weight.clamp(-limit, limit)
        values = nearest(kept, *stored(*ranges(kept, spec), spec), spec)[1]
        loss = _loss(values.sub_(weight).transpose(0, 1), own).transpose(0, 1).contiguous()
        better = loss < least
        least, best = torch.where(better, loss, least), torch.where(better, limit, best)
    return weight.clamp(-best, best)
