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

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import Fitted
from tailorbird.formats.grid import Grid
from tailorbird.formats.spec import PlaneSpec

# Numbers worked on at once; they stay in the processor's cache.
CHUNK = 2**18


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
        top = torch.tensor([2.0**bits - 1 for bits in spec.bits])[:, None]
        fits = [minmax(groups[:, g].T, bits, spec.offset) for g, bits in enumerate(spec.bits)]
        start = torch.stack([offset for _, offset in fits], 1)
        grid = Grid.store(torch.stack([scale for scale, _ in fits], 1), start, spec)
        if spec.offset == "float":
            scale = grid.values()[0]
            solved = Grid.store(scale, self.solve(groups, scale, start, top), spec)
            grid = _better(groups, grid, solved, top)
        codes, _ = _nearest(groups, *grid.values(), top)
        return Fitted(codes.view(rows.shape).to(torch.uint8), grid)

    def solve(self, groups: Tensor, scale: Tensor, offset: Tensor, top: Tensor) -> Tensor:
        """Offsets (rows, groups) for weights (rows, groups, size), given scales, first offsets and the largest codes
        (groups, 1)."""
        beta, least, best = self.beta, float("inf"), offset
        for _ in range(self.rounds + 1):
            codes, error = _nearest(groups, scale, offset, top)
            magnitude = error.abs()
            mean = float(magnitude.mean())
            if mean >= least:
                break
            least, best = mean, offset
            shrunk = error.sign() * (magnitude - magnitude.pow(self.norm - 1).div_(beta)).clamp_(min=0)
            offset = (groups - shrunk).sub_(codes.mul_(scale[:, :, None])).mean(2)
            beta *= self.growth
        return best


def _nearest(groups: Tensor, scale: Tensor, offset: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest codes, as floats, and what is left of the weights, both (rows, groups, size)."""
    scale, offset = scale[:, :, None], offset[:, :, None]
    codes = torch.minimum((groups - offset).div_(scale).round_().clamp_(min=0), top)
    return codes, torch.addcmul(offset, codes, scale).sub_(groups).neg_()


def _better(groups: Tensor, one: Grid, other: Grid, top: Tensor) -> Grid:
    """Of two grids the one with the smaller mean |error|, row by row."""
    first, second = (_nearest(groups, *grid.values(), top)[1].abs().mean((1, 2)) for grid in (one, other))
    rows = torch.nonzero(second < first)[:, 0]
    return Grid(
        one.spec, {name: array.index_copy(0, rows, other.arrays[name][rows]) for name, array in one.arrays.items()}
    )
