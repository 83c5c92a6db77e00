"""Group fitters: the scale and offset of one group of columns, for every row at once.

A fitter takes the group's weights with columns first, ``w`` (group, rows), and returns raw float32 (scale,
offset), both (rows,); the caller rounds them to what the format stores. Source of the ranges: Frantar et al.,
GPTQ, arXiv 2210.17323.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tailorbird.formats.spec import Offset

Fitter = Callable[[Tensor, int, Offset], tuple[Tensor, Tensor]]


def minmax(w: Tensor, bits: int, offset: Offset) -> tuple[Tensor, Tensor]:
    """The plain range of the group; asymmetric ranges include zero unless the offset is a number of its own.

    One bit keeps the mean magnitude instead: +-mean|w|, around the mean where a float offset can hold it.
    """
    if bits == 1:
        return _one_bit(w, offset)
    low, high = w.amin(0), w.amax(0)
    return ranged(low, high, bits, offset)


def ranged(low: Tensor, high: Tensor, bits: int, offset: Offset) -> tuple[Tensor, Tensor]:
    """Scale and offset that spread ``2**bits`` codes over low..high, both (rows,)."""
    steps = 2**bits - 1
    if offset == "none":
        reach = torch.maximum(low.abs(), high.abs()).clamp_min(1e-12)
        scale = 2 * reach / steps
        return scale, -scale * 2 ** (bits - 1)
    if offset == "float":
        return ((high - low) / steps).clamp_min(1e-12), low
    low, high = low.clamp_max(0), high.clamp_min(0)
    empty = (low == 0) & (high == 0)
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    scale = (high - low) / steps
    return scale, -scale * (-low / scale).round()


def _one_bit(w: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
    centre = w.mean(0) if offset == "float" else torch.zeros(w.shape[1])
    reach = (w - centre).abs().mean(0).clamp_min(1e-12)
    return 2 * reach, centre - reach
