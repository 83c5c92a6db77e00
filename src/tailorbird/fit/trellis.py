"""Fitting paths through a trellis: a search with error feedback, then scales by least squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.fit.sweep import HEADROOM, ROW_CHUNK, joined
from tailorbird.formats import TrellisCodes, TrellisSpec
from tailorbird.formats.grid import Grid, Units, stored
from tailorbird.formats.trellis import spelled
from tailorbird.kernels.trellis import DEVIATION, codes, search, state_values

# Codes are made for numbers of deviation 1. What errors of earlier columns add widens a group by about a tenth.
SPREAD = 1.1
# How much wider a group with outliers may begin.
WIDER = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 1.9, 2.2, 2.5, 3.0, 3.5)
# The share of the largest code that paths reach where they have to: only some states have the largest.
REACH = 0.7
# The squared error of a column of deviation 1, times 4 to the power of its bits.
LOST = 0.7
PAIRS = 2**25


@dataclass(frozen=True)
class FittedTrellis:
    """What a fitter chose for a weight.

    Attributes:
        spec: the format.
        stream: uint8 (rows, bytes), the paths.
        grid: scales as stored.
    """

    spec: TrellisSpec
    stream: Tensor
    grid: Grid

    def meaning(self) -> Iterator[Tensor]:
        """Codes and scales, as `TrellisCodes.meaning`."""
        yield from spelled(self.stream, self.spec)
        yield self.grid.values()[0]

    def pack(self) -> TrellisCodes:
        """The packed weight."""
        return TrellisCodes.pack(self.stream, self.grid, self.spec)


def fit_trellis(weight: Tensor, spec: TrellisSpec, gram: Tensor, upper: Tensor, beam: int) -> FittedTrellis:
    """Paths under scales from the numbers of each group, then the scales that suit these paths best.

    Args:
        weight: float32 (rows, cols).
        spec: the format.
        gram: float32 (cols, cols), damped.
        upper: its `sweep_factor`.
        beam: paths kept at every column.
    """
    streams, grids = [], []
    # The least squares of a row take a number for every pair of groups.
    for part in torch.split(weight, max(16, min(ROW_CHUNK, PAIRS // len(spec.halves) ** 2))):
        rows = part.float()
        scale = _first_scales(rows, spec)
        units = Units.of(scale, scale, spec.grid, HEADROOM)
        grid = Grid.store(scale, scale, spec.grid, units)
        stream = search(rows, grid.values()[0], upper, spec.halves, spec.group_size, beam)
        streams.append(stream)
        grids.append(_refitted(rows, codes(stream, spec.halves, spec.group_size).float(), spec, gram, grid, units))
    return FittedTrellis(spec, torch.cat(streams), joined(grids))


def _first_scales(rows: Tensor, spec: TrellisSpec) -> Tensor:
    """Scales from the deviation of each group; wider ones, where what outliers would lose by being out of reach is more
    than what all others lose by a coarser scale. float32 (rows, groups)."""
    grouped = rows.view(len(rows), -1, spec.group_size)
    deviation = SPREAD * grouped.square().mean(2).sqrt()
    halves = torch.tensor(spec.halves)
    reach = REACH / DEVIATION * state_values().abs().amax(1).float()[halves]
    lost = LOST * spec.group_size * torch.exp2(-halves.float())
    losses = []
    for wider in WIDER:
        scale = wider * deviation
        beyond = (grouped.abs() - (reach * scale)[:, :, None]).clamp_min_(0).square_().sum(2)
        losses.append(beyond + lost * scale.square())
    return deviation * torch.tensor(WIDER)[torch.stack(losses).argmin(0)] / DEVIATION


def _refitted(rows: Tensor, found: Tensor, spec: TrellisSpec, gram: Tensor, grid: Grid, units: Units) -> Grid:
    """Scales of all groups of a row together, by least squares under the Gram matrix, where that does good."""
    size, before = spec.group_size, grid.values()[0]
    grouped = found.view(len(found), -1, size)
    normal = torch.empty(len(found), grouped.shape[1], grouped.shape[1])
    for g in range(grouped.shape[1]):
        seen = grouped[:, g] @ gram[g * size : (g + 1) * size]
        normal[:, g] = (seen.view(grouped.shape) * grouped).sum(2)
    right = ((rows @ gram).view(grouped.shape) * grouped).sum(2)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + 1e-30
    scale: Tensor = torch.linalg.solve(normal, right[..., None])[..., 0]
    after = stored(torch.where(scale > 0, scale, before), before, spec.grid, units)[0]
    losses = [_loss(rows - (grouped * s[:, :, None]).flatten(1), gram) for s in (before, after)]
    kept = torch.where((losses[1] < losses[0])[:, None], after, before)
    return Grid.store(kept, kept, spec.grid, units)


def _loss(error: Tensor, gram: Tensor) -> Tensor:
    return (error @ gram * error).sum(1)
