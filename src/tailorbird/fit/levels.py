"""Rounding to a table of levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.fit.sweep import ROW_CHUNK, joined
from tailorbird.formats import BitPlanes, LevelCodes, LevelSpec
from tailorbird.formats.grid import Grid


@dataclass(frozen=True)
class FittedLevels:
    """What a fitter chose for a weight whose codes look up levels.

    Attributes:
        spec: the format.
        codes: uint8 (rows, cols).
        grid: scales as stored.
        levels: float32 (2**bits,).
    """

    spec: LevelSpec
    codes: Tensor
    grid: Grid
    levels: Tensor

    def meaning(self) -> Iterator[Tensor]:
        """Codes, scales and levels."""
        return iter((self.codes, self.grid.values()[0], self.levels))

    def pack(self) -> LevelCodes:
        """The packed weight."""
        return LevelCodes.pack(BitPlanes.pack(self.codes, self.grid, self.spec.codes), self.spec, self.levels)


def fit_levels(weight: Tensor, spec: LevelSpec, levels: Tensor) -> FittedLevels:
    """The nearest level of every weight (rows, cols) under the largest magnitude of its group, as that is stored."""
    codes, grids = torch.empty(weight.shape, dtype=torch.uint8), []
    borders = (levels[1:] + levels[:-1]) / 2
    for start in range(0, weight.shape[0], ROW_CHUNK):
        grouped = weight[start : start + ROW_CHUNK].float().view(-1, spec.groups, spec.group_size)
        reach = grouped.abs().amax(2)
        grid = Grid.store(reach, reach, spec.codes)
        shares = grouped / grid.values()[0][:, :, None]
        codes[start : start + ROW_CHUNK] = torch.bucketize(shares, borders).flatten(1)
        grids.append(grid)
    return FittedLevels(spec, codes, joined(grids), levels)
