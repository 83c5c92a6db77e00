"""Block by block into a sum of planes: a block is coded as a whole, later blocks make up for its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tailorbird.fit.binary import Binary
from tailorbird.fit.sweep import HEADROOM, Fitted
from tailorbird.formats import SumSpec
from tailorbird.formats.grid import Grid, Units


@dataclass(frozen=True)
class PlaneBlock:
    """A group of columns as planes, each ``+-half`` by row, and an offset.

    Attributes:
        signs: -1 or 1, one (group, rows) a plane.
        halves: (planes, rows).
        offset: (rows,), 0 where the format has none.
    """

    signs: list[Tensor]
    halves: Tensor
    offset: Tensor

    @classmethod
    def residual(cls, parts: list[Binary]) -> PlaneBlock:
        """Binary weights that add up."""
        return cls([part.sign for part in parts], torch.stack([p.magnitude for p in parts]), sum_means(parts))

    @classmethod
    def split(cls, near: Binary, far: Binary) -> PlaneBlock:
        """Two magnitudes by a mask are two planes; with two means a third one, the product of both."""
        side = torch.where(far.mask, 1.0, -1.0)
        sign = torch.where(far.mask, far.sign, near.sign)
        mean, apart = (near.mean + far.mean) / 2, (far.mean - near.mean) / 2
        size, step = (near.magnitude + far.magnitude) / 2, (far.magnitude - near.magnitude) / 2
        signs, halves = [sign, side * sign, side], torch.stack([size, step, apart])
        return cls(
            [s * torch.where(half < 0, -1.0, 1.0) for s, half in zip(signs, halves, strict=True)], halves.abs(), mean
        )


def sum_means(parts: list[Binary]) -> Tensor:
    """Means of binary weights that add up, together."""
    return torch.stack([part.mean for part in parts]).sum(0)


class SumSweep:
    """The sweep over some rows.

    Args:
        w: float32 (cols, rows), in stored column order; overwritten.
        upper: `sweep_factor` in that order.
        spec: the format; terms of one bit over all groups, the first of which may have float offsets.
    """

    def __init__(self, w: Tensor, upper: Tensor, spec: SumSpec) -> None:
        self.w, self.upper, self.spec = w, upper, spec

    def run(self, block: Callable[[int, Tensor], PlaneBlock]) -> tuple[Fitted, ...]:
        """All blocks; `block` gives the planes of a group as it is when the sweep reaches it."""
        size, count = self.spec.group_size, self.spec.groups
        parts = [self.w[g * size : (g + 1) * size] for g in range(count)]
        units = self._units([block(g, part) for g, part in enumerate(parts)])
        found: list[list[Fitted]] = [[] for _ in self.spec.terms]
        for g, part in enumerate(parts):
            own, later = slice(g * size, (g + 1) * size), slice((g + 1) * size, None)
            made, values = block(g, part), torch.zeros_like(part)
            for k, mine in enumerate(found):
                mine.append(self._term(made, k, units[k]))
                scale, offset = mine[-1].grid.values()
                values += mine[-1].codes.T * scale[:, 0] + offset[:, 0]
            errors = (part - values) / self.upper.diagonal()[own, None]
            self.w[later].addmm_(self.upper[own, later].T, errors, alpha=-1)
        return tuple(self._joined(k, mine, units[k]) for k, mine in enumerate(found))

    def _numbers(self, made: PlaneBlock, k: int) -> tuple[Tensor, Tensor]:
        """Scale and offset of a term, raw."""
        half = made.halves[k] if k < len(made.halves) else torch.zeros_like(made.offset)
        return 2 * half, made.offset - half if self.spec.terms[k].spec.offset == "float" else -half

    def _units(self, blocks: list[PlaneBlock]) -> list[Units]:
        """From the blocks as they are before any error reached them."""
        found = []
        for k, term in enumerate(self.spec.terms):
            scale, offset = (
                torch.stack(numbers, 1) for numbers in zip(*(self._numbers(b, k) for b in blocks), strict=True)
            )
            found.append(Units.of(scale, offset, term.spec, HEADROOM))
        return found

    def _term(self, made: PlaneBlock, k: int, units: Units) -> Fitted:
        """One term of one block, rounded to what is stored."""
        scale, offset = self._numbers(made, k)
        one = replace(self.spec.terms[k].spec, bits=(1,))
        sign = made.signs[k] if k < len(made.signs) else made.signs[0]
        return Fitted((sign.T > 0).to(torch.uint8), Grid.store(scale[:, None], offset[:, None], one, units))

    def _joined(self, k: int, parts: list[Fitted], units: Units) -> Fitted:
        values = [part.grid.values() for part in parts]
        scale, offset = torch.cat([s for s, _ in values], 1), torch.cat([o for _, o in values], 1)
        return Fitted(torch.cat([p.codes for p in parts], 1), Grid.store(scale, offset, self.spec.terms[k].spec, units))
