"""The compensation sweep: quantise column by column and let later columns make up for the error (GPTQ, arXiv
2210.17323).

Rows do not depend on each other, so they are worked on in chunks that stay in the processor's cache, with columns
first: a step then touches contiguous memory. Blocks of 128 columns take their rank-one updates at once and pass the sum
on in one product; inside a block the same is done once more for 16 columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tailorbird.fit.compensate import compensate, strides
from tailorbird.fit.groups import Fitter, minmax
from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.grid import Grid, Units, stored
from tailorbird.formats.spec import PlaneSpec

ROW_CHUNK = 2048
INNER = 16
# A group refitted during the sweep may need more range than it had before; beyond this its scale saturates.
HEADROOM = 1.25


@dataclass(frozen=True)
class Fitted:
    """What a fitter chose for one weight.

    Attributes:
        codes: uint8 (rows, cols), in stored column order.
        grid: scales and offsets as stored.
        column_order: int32 (cols,), where the format stores one.
        error: sum e^2 = trace(dW H dW^T) of the sweep, H damped; 0 without compensation.
        claimed_bits: bits a weight as the method's paper counts them, where it counts otherwise.
    """

    codes: Tensor
    grid: Grid
    column_order: Tensor | None = None
    error: float = 0.0
    claimed_bits: float | None = None

    def meaning(self) -> Iterator[Tensor]:
        """Codes, scales and offsets, see `PackedWeight.meaning`."""
        return iter((self.codes, *self.grid.values()))

    def pack(self) -> BitPlanes:
        """The packed weight."""
        return BitPlanes.pack(self.codes, self.grid, self.grid.spec, self.column_order)


def sweep(
    weight: Tensor,
    spec: PlaneSpec,
    fitter: Fitter,
    upper: Tensor | None = None,
    static_groups: bool = False,
    order: Tensor | None = None,
    met: Tensor | None = None,
) -> Fitted:
    """Quantise a weight, feeding the error of each column to the later ones.

    Args:
        weight: float32 (rows, cols).
        spec: the format; its groups are groups of *stored* columns, or with `static_groups` of the weight's own.
        fitter: chooses scale and offset of a group.
        upper: `sweep_factor` of the Gram matrix, columns in sweep order; None rounds without compensation.
        static_groups: fit every group on the original weight instead of on the weight as updated when the sweep
            reaches it.
        order: sweep order of the columns, int64 (cols,). With `static_groups` codes come back in the weight's own
            order, otherwise in sweep order (the format then stores the permutation).
        met: filled with the weight as the sweep met it, float32 (rows, cols) in sweep order: rounding that to the grid
            gives the codes.

    Returns:
        codes and grid; with a stored column order, that order.
    """
    static_groups = static_groups or upper is None
    codes = torch.empty(weight.shape, dtype=torch.uint8)
    grids, error = [], 0.0
    for start in range(0, weight.shape[0], ROW_CHUNK):
        rows = weight[start : start + ROW_CHUNK].float()
        chunk = _Chunk(rows if order is None or static_groups else rows[:, order], spec, fitter, static_groups)
        error += chunk.run(upper, order if static_groups else None)
        codes[start : start + ROW_CHUNK] = chunk.codes.T
        grids.append(chunk.grid())
        if met is not None:
            met[start : start + ROW_CHUNK] = chunk.w.T
    stored_order = order.to(torch.int32) if order is not None and spec.column_order else None
    return Fitted(codes, joined(grids), stored_order, error)


class _Chunk:
    """The sweep over some rows, columns first."""

    def __init__(self, rows: Tensor, spec: PlaneSpec, fitter: Fitter, static: bool) -> None:
        self.spec, self.fitter, self.static = spec, fitter, static
        # A copy even of a single row, which is contiguous as it is: the sweep writes into it.
        self.w = rows.T.clone(memory_format=torch.contiguous_format)
        self.codes = torch.empty(self.w.shape, dtype=torch.uint8)
        n, groups = rows.shape[0], len(spec.bits)
        self.scale, self.offset = torch.empty(groups, n), torch.empty(groups, n)
        for g in range(groups):
            self._fit(g, fitter if static else minmax)
        self.units = Units.of(self.scale.T, self.offset.T, spec, 1.0 if static else HEADROOM)
        for g in range(groups if static else 0):
            self._snap(g)

    def run(self, upper: Tensor | None, order: Tensor | None) -> float:
        """Sweep all columns, visiting the weight's own columns in `order` where one is given; returns the error."""
        visit = list(range(self.w.shape[0])) if order is None else order.tolist()
        if upper is None:
            for j in visit:
                self._quantize(j, self.w[j])
            return 0.0
        if order is not None:
            self.w = self.w[order]
        block, inner = (128, 16) if self.static else strides(self.spec.group_size)
        return compensate(self.w, upper, lambda j, w: self._column(j, visit[j], w), block, inner)

    def _column(self, place: int, column: int, w: Tensor) -> Tensor:
        """The values of the column at a place of the sweep; groups that move are fitted when the sweep reaches them."""
        if not self.static and place % self.spec.group_size == 0:
            self._fit(place // self.spec.group_size, self.fitter)
            self._snap(place // self.spec.group_size)
        return self._quantize(column, w)

    def _fit(self, g: int, fitter: Fitter) -> None:
        size = self.spec.group_size
        group = self.w[g * size : (g + 1) * size]
        self.scale[g], self.offset[g] = fitter(group, self.spec.bits[g], self.spec.offset)

    def _snap(self, g: int) -> None:
        """Round the group's scale and offset to what the format will hold."""
        one = replace(self.spec, bits=self.spec.bits[g : g + 1], column_order=False)
        scale, offset = stored(self.scale[g][:, None], self.offset[g][:, None], one, self.units)
        self.scale[g], self.offset[g] = scale[:, 0], offset[:, 0]

    def _quantize(self, column: int, w: Tensor) -> Tensor:
        """Choose codes of one column of the weight; returns its stored values, float32 (rows,)."""
        g = column // self.spec.group_size
        scale, offset = self.scale[g], self.offset[g]
        code = (w - offset).div_(scale).round_().clamp_(0, 2 ** self.spec.bits[g] - 1)
        self.codes[column] = code
        return code.mul_(scale).add_(offset)

    def grid(self) -> Grid:
        """The stored form of all groups."""
        return Grid.store(self.scale.T, self.offset.T, self.spec, self.units)


def joined(grids: list[Grid]) -> Grid:
    """Grids of consecutive rows as one."""
    names = grids[0].arrays
    return Grid(grids[0].spec, {name: torch.cat([grid.arrays[name] for grid in grids]) for name in names})
