"""One weight while its rounding is learned: ranges, stored grid and codes as functions of what is learned.

The grid's own rounding is part of the forward pass, so that what was evaluated last is what will be stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tailorbird.fit.groups import ranged
from tailorbird.fit.sweep import Fitted
from tailorbird.formats.grid import Grid, Units, stored
from tailorbird.formats.spec import PlaneSpec
from tailorbird.tune.rounding import rounded, through


class Quantizer(ABC):
    """A weight and where its quantisation starts from; subclasses say what is learned.

    Args:
        weight: float32 (rows, cols): what is rounded.
        start: the grid it starts from. 8-bit scales stay under its row scales, so ranges may shrink only.

    Attributes:
        low: where codes begin, of every row and group, (rows, groups), at the start.
        high: where they end.
        learned: the parameters.
    """

    def __init__(self, weight: Tensor, start: Grid) -> None:
        self.spec = start.spec
        self.rows, groups = weight.shape[0], len(self.spec.bits)
        self.grouped = weight.reshape(self.rows, groups, self.spec.group_size)
        none = torch.empty(0)
        self.units = Units(start.arrays.get("row_scales", none), start.arrays.get("row_offsets", none))
        self.top = torch.tensor([float(2**bits - 1) for bits in self.spec.bits])[:, None]
        self.low, self.high = _ends(*start.values(), self.top[:, 0], self.spec)
        self.learned: list[Tensor] = []

    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """The range of every row and group as it is now, both (rows, groups)."""

    def shift(self) -> Tensor | None:
        """What is added before rounding, (rows, groups, group size)."""
        return None

    def project(self) -> None:
        """Bring the parameters back into their domain after a step; by default they may be anything."""
        return

    def weight(self) -> Tensor:
        """The weight as it would be stored now, float32 (rows, cols); differentiable in what is learned."""
        scale, offset = spread(*self.ends(), self.spec)
        with torch.no_grad():
            held = stored(scale, offset, self.spec, self.units)
        scale, offset = (through(value, instead) for value, instead in zip((scale, offset), held, strict=True))
        return rounded(self.grouped, scale, offset, self.top, self.shift()).view(self.rows, -1)

    @torch.no_grad()
    def fitted(self) -> Fitted:
        """Codes and grid of the same weight."""
        grid = Grid.store(*spread(*self.ends(), self.spec), self.spec, self.units)
        scale, offset = (value[:, :, None] for value in grid.values())
        place, shift = (self.grouped - offset).div_(scale), self.shift()
        if shift is not None:
            place += shift
        codes = torch.minimum(place.round_().clamp_min_(0), self.top).to(torch.uint8)
        return Fitted(codes.view(self.rows, -1), grid)


class Clip(Quantizer):
    """Learned weight clipping (OmniQuant, arXiv 2308.13137): each end of a range times the sigmoid of a logit.

    Groups of one bit have no range to clip: their magnitude is multiplied by 0.5 to 1.5, at first by 1 (SliM-LLM+,
    arXiv 2405.14917).

    Args:
        weight: what is rounded.
        start: the grid it starts from.
        logit: all logits at first.
    """

    def __init__(self, weight: Tensor, start: Grid, logit: float) -> None:
        super().__init__(weight, start)
        self.logits = torch.full((2, *self.low.shape), logit, requires_grad=True)
        self.first = logit
        self.one_bit = torch.tensor([bits == 1 for bits in self.spec.bits])
        self.learned = [self.logits]

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ranges under their sigmoids."""
        share = self.logits.sigmoid()
        if self.one_bit.any():
            share = torch.where(self.one_bit, 0.5 + (self.logits - self.first).sigmoid(), share)
        return self.low * share[0], self.high * share[1]


class Shift(Quantizer):
    """SignRound's parameters (arXiv 2309.05516): a shift of every weight before rounding, and the share of either end
    of every range, between 0 and 1."""

    def __init__(self, weight: Tensor, start: Grid) -> None:
        super().__init__(weight, start)
        self.shifts = torch.zeros(self.grouped.shape, requires_grad=True)
        self.shares = torch.ones(2, *self.low.shape, requires_grad=True)
        self.learned = [self.shifts, self.shares]

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ranges times their shares."""
        return self.low * self.shares[0], self.high * self.shares[1]

    def shift(self) -> Tensor:
        """The shifts."""
        return self.shifts

    @torch.no_grad()
    def project(self) -> None:
        """Shares between 0 and 1; the steps of the shifts add up to half a code at most."""
        self.shares.clamp_(0, 1)


def spread(low: Tensor, high: Tensor, spec: PlaneSpec) -> tuple[Tensor, Tensor]:
    """Scale and offset that spread the codes of every group over low..high, all (rows, groups); see `ranged`."""
    found = []
    for bits, groups in spec.runs:
        scale, offset = ranged(low[:, groups], high[:, groups], bits, spec.offset)
        found.append((scale, -scale / 2 if bits == 1 and spec.offset != "float" else offset))
    back = torch.tensor(spec.order).argsort()
    scales, offsets = (torch.cat(values, dim=1)[:, back] for values in zip(*found, strict=True))
    return scales, offsets


def _ends(scale: Tensor, offset: Tensor, top: Tensor, spec: PlaneSpec) -> tuple[Tensor, Tensor]:
    """What `spread` makes this scale and offset of."""
    if spec.offset == "none":
        return -scale * top / 2, scale * top / 2
    return offset, offset + scale * top
