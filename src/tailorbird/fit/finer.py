"""Codes of more than eight bits: eight, and a second term that divides their steps (`SumSpec.finer`).

By rounding alone, whatever the method: what feedback or learning gains is a share of an error that is next to nothing
here, and the second term would have to reach further for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.fit.groups import ranged
from tailorbird.fit.planes import FittedSum
from tailorbird.fit.sweep import ROW_CHUNK, Fitted, joined
from tailorbird.formats import SumSpec
from tailorbird.formats.grid import Grid
from tailorbird.formats.spec import MAX_BITS

# A range is widened by a step at either end, so that rounding scale and zero point cuts nothing off: what is cut off
# would be most of the error.
ROOM = 1 / 2**MAX_BITS


def fit_finer(weight: Tensor, spec: SumSpec) -> FittedSum:
    """Every weight to the nearest value of its group.

    Args:
        weight: float32 (rows, cols).
        spec: a format made by `SumSpec.finer`.
    """
    chunks = [_chunk(weight[start : start + ROW_CHUNK], spec) for start in range(0, len(weight), ROW_CHUNK)]
    terms = [
        Fitted(torch.cat([part.codes for part in parts]), joined([part.grid for part in parts]))
        for parts in zip(*chunks, strict=True)
    ]
    return FittedSum(spec, tuple(terms))


def _chunk(weight: Tensor, spec: SumSpec) -> tuple[Fitted, Fitted]:
    base, rest = spec.terms
    w = weight.float().view(-1, spec.groups, spec.group_size)
    low, high = w.amin(2), w.amax(2)
    room = (high - low) * ROOM
    scale, offset = ranged(low - room, high + room, MAX_BITS, base.spec.offset)
    coarse = Grid.store(scale, offset, base.spec)
    scale, offset = coarse.values()
    # From two bits on, values of the second term reach half of its step further down than up: zero is one of them.
    shift = torch.tensor([2.0 ** -(bits + 1) if bits > 1 else 0.0 for bits in spec.more])
    codes = ((w - offset[..., None]) / scale[..., None] + shift[:, None]).round_().clamp_(0, 2**MAX_BITS - 1)
    left = (w - (codes * scale[..., None] + offset[..., None]))[:, rest.groups]
    steps = scale[:, rest.groups] / torch.tensor([2.0**bits for bits in rest.spec.bits])
    fine = Grid.store(steps, steps, rest.spec)
    steps, first = fine.values()
    tops = torch.tensor([2.0**bits - 1 for bits in rest.spec.bits])[:, None]
    second = ((left - first[..., None]) / steps[..., None]).round_().clamp_(torch.zeros(()), tops)
    return Fitted(codes.flatten(1).to(torch.uint8), coarse), Fitted(second.flatten(1).to(torch.uint8), fine)
