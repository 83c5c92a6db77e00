"""Half-quadratic fitting of float offsets, without data (HQQ; Badri and Shaji, mobiusml.github.io/hqq_blog, 2023).

Minimise sum |W - (q * scale + offset)|^p, p < 1, over codes and offsets; the scale stays that of the range. With a
variable E that stands for the error, two steps take turns:

    E <- shrink(W - Wq),  shrink(x) = sign(x) * max(|x| - |x|^(p-1) / beta, 0)
    offset <- mean over the group of (W - E) - q * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.fit.rounding import CHUNK, nearest, ranges
from tailorbird.fit.sweep import Fitted
from tailorbird.formats.grid import Grid
from tailorbird.formats.spec import PlaneSpec


@dataclass(frozen=True)
class HalfQuadratic:
    """The iteration and its settings, those of the published solver by default.

    Attributes:
        norm: the exponent p.
        beta: weight of the quadratic term at the start.
        growth: what beta is multiplied by in each round.
        rounds: rounds at most; a chunk of rows stops as soon as its mean error no longer falls.
    """

    norm: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    rounds: int = 20

    def __call__(self, weight: Tensor, spec: PlaneSpec) -> Fitted:
        """Codes of `weight`, float32 (rows, cols), and its grid; offsets are improved where the format has floats.

        Scales are rounded to their stored form before the first round, offsets after the last; a row keeps the
        offsets it began with where those lose less in the stored form.
        """
        step = max(1, CHUNK // weight.shape[1])
        done = [self._rows(rows.float(), spec) for rows in torch.split(weight, step)]
        names = done[0].grid.arrays
        arrays = {name: torch.cat([fitted.grid.arrays[name] for fitted in done]) for name in names}
        return Fitted(torch.cat([fitted.codes for fitted in done]), Grid(spec, arrays))

    def _rows(self, rows: Tensor, spec: PlaneSpec) -> Fitted:
        groups = rows.view(len(rows), -1, spec.group_size)
        first, start = ranges(groups, spec)
        grid = Grid.store(first, start, spec)
        if spec.offset == "float":
            scale = grid.values()[0]
            grid = _better(groups, grid, Grid.store(scale, self.solve(groups, scale, start, spec), spec))
        codes, _ = nearest(groups, *grid.values(), spec)
        return Fitted(codes.view(rows.shape).to(torch.uint8), grid)

    def solve(self, groups: Tensor, scale: Tensor, offset: Tensor, spec: PlaneSpec) -> Tensor:
        """Offsets (rows, groups) for weights (rows, groups, size), given scales and first offsets."""
        beta, least, best = self.beta, float("inf"), offset
        for _ in range(self.rounds + 1):
            codes, values = nearest(groups, scale, offset, spec)
            error = values.neg_().add_(groups)
            magnitude = error.abs()
            mean = float(magnitude.mean())
            if mean >= least:
                break
            least, best = mean, offset
            shrunk = error.sign_().mul_((magnitude - magnitude.pow(self.norm - 1).div_(beta)).clamp_(min=0))
            offset = (groups - shrunk).sub_(codes.mul_(scale[:, :, None])).mean(2)
            beta *= self.growth
        return best


def _better(groups: Tensor, one: Grid, other: Grid) -> Grid:
    """Of two grids the one with the smaller mean |error|, row by row."""
    first, second = (
        (nearest(groups, *grid.values(), one.spec)[1] - groups).abs().mean((1, 2)) for grid in (one, other)
    )
    rows = torch.nonzero(second < first)[:, 0]
    arrays = {name: array.index_copy(0, rows, other.arrays[name][rows]) for name, array in one.arrays.items()}
    return Grid(one.spec, arrays)
