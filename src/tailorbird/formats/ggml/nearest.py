"""The nearest point of a grid, and scales that can't be divided by."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from tailorbird.formats.ggml.types import Affine, Levels

Nearest = Callable[[Tensor], Tensor]


def nearest_point(grid: Levels | Affine) -> Nearest:
    """A function from (w - offset) / scale to the nearest level or code; it may work in place."""
    return nearest_level(grid) if isinstance(grid, Levels) else lambda x: x.round_().clamp_(0, grid.top)


def nearest_level(grid: Levels) -> Nearest:
    """A function from w / scale, float32 of any shape, to the nearest level; it may work in place."""
    if grid.table is None:
        return lambda x: x.round_().clamp_(grid.low, grid.high)
    if len(grid.table) == 2:
        return lambda x: torch.where(x < 0, -1.0, 1.0)
    table = _table(grid.table)
    # Half a unit apart, so that a middle between two levels is met exactly.
    return lambda x: table[x.mul_(2).round_().clamp_(2 * grid.low, 2 * grid.high).sub_(2 * grid.low).int()]


@lru_cache(maxsize=8)
def _table(levels: tuple[int, ...]) -> Tensor:
    points = torch.arange(2 * levels[0], 2 * levels[-1] + 1) / 2
    places = torch.tensor(levels, dtype=torch.float32)
    return places[(points[:, None] - places).abs().argmin(1)]


def inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where that is not finite."""
    found = 1 / scale
    return torch.where(found.isfinite(), found, 0.0)


def ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom; 0 where bottom is 0."""
    return torch.where(bottom != 0, top / torch.where(bottom != 0, bottom, 1.0), 0.0)


def whole_places(end: int) -> list[float]:
    """Where the largest of some scales may fall in 0 to `end`. Whole numbers, so that weights that were on such a
    grid find it again; the end itself, and half a step beyond."""
    step = max(1, abs(end) // 24) if abs(end) > 15 else 0.5
    count = int(0.4 * abs(end) / step)
    sign = 1 if end > 0 else -1
    return [sign * (abs(end) - step * n) for n in range(-1, count)]
