"""Fitting blocks on `Affine` grids: ``w = d * scale * code - dmin * minimum``, or ``d * code + dmin`` without scales.

As in `levels`: scale and offset of a sub-block are searched and refined by turns; then the block's two halves and the
whole numbers of its sub-blocks are chosen together, with codes chosen anew for the rounded numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from tailorbird.formats.ggml.blocks import Numbers, halved
from tailorbird.formats.ggml.nearest import inverse, ratio, whole_places
from tailorbird.formats.ggml.types import Affine, BlockType

_TURNS = 3
_ROUNDS = 3


@dataclass(frozen=True)
class _Fit:
    """Scales, minima and codes of blocks, and what they lose."""

    d: Tensor  # (n, 1)
    dmin: Tensor  # (n, 1)
    scales: Tensor  # (n, subs)
    minima: Tensor  # (n, subs)
    codes: Tensor  # (n, subs, sub)
    loss: Tensor  # (n, subs)


@dataclass(frozen=True)
class _Sums:
    """What the best scale and offset for given codes depend on, each (n, subs): weighted sums of 1, q, q^2, w, q w."""

    one: Tensor
    q: Tensor
    qq: Tensor
    w: Tensor
    qw: Tensor

    @classmethod
    def of(cls, w: Tensor, h: Tensor, hw: Tensor, codes: Tensor) -> _Sums:
        hq = h * codes
        ones = h.expand(w.shape).sum(2)
        return cls(ones, hq.sum(2), (hq * codes).sum(2), hw.sum(2), (hw * codes).sum(2))

    def solve(self, *, below: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Least-squares scale and offset, and how much of sum h w^2 they explain.

        With `below` offsets above zero, which minima can't hold, become zero.
        """
        determinant = self.qq * self.one - self.q.square()
        scale = ratio(self.qw * self.one - self.w * self.q, determinant)
        offset = ratio(self.w - scale * self.q, self.one)
        if below:
            plain = ratio(self.qw, self.qq)
            scale, offset = torch.where(offset > 0, plain, scale), offset.clamp_max(0)
        gain = 2 * (scale * self.qw + offset * self.w)
        gain -= scale.square() * self.qq + 2 * scale * offset * self.q + offset.square() * self.one
        return scale, offset, gain


def fit_affine(w: Tensor, h: Tensor, kind: BlockType, known: tuple[Tensor, Tensor] | None = None) -> Numbers:
    """Numbers that lose least of ``sum h (w - value)^2``.

    Args:
        w: float32 (n, subs, sub).
        h: float32, likewise or broadcastable to it; positive.
        kind: a type on an `Affine` grid.
        known: scale and offset of every sub-block, each (n, subs), to start from, too.
    """
    grid = kind.grid
    assert isinstance(grid, Affine)
    scale, offset = _best_range(w, h, grid.top, known, below=bool(kind.scales))
    if not kind.scales:
        d, start = halved(scale), halved(offset)
        return Numbers(d, _nearest(w, d, start, grid.top).to(torch.uint8), start)
    best = _start(w, h, scale, -offset, grid)
    for _ in range(_ROUNDS):
        best = _neighbours(w, h, best, grid)
        best = _joint(w, h, best, grid)
    return Numbers(best.d, best.codes.to(torch.uint8), best.dmin, best.scales, best.minima)


def refit_affine(w: Tensor, h: Tensor, d: Tensor, dmin: Tensor, grid: Affine) -> tuple[Tensor, Tensor]:
    """Scales and minima of sub-blocks for given halves: w (n, subs, sub), d and dmin (n, 1) to whole numbers
    (n, subs)."""
    scale, offset = _best_range(w, h, grid.top, None, below=True)
    best = _with(w, h, d, dmin, _whole(scale, d, grid), _whole(-offset, dmin, grid), grid)
    best = _neighbours(w, h, best, grid)
    return best.scales, best.minima


def _nearest(w: Tensor, scale: Tensor, offset: Tensor, top: int) -> Tensor:
    return (w - offset[:, :, None]).mul_(inverse(scale)[:, :, None]).round_().clamp_(0, top)


def _best_range(
    w: Tensor, h: Tensor, top: int, known: tuple[Tensor, Tensor] | None, *, below: bool
) -> tuple[Tensor, Tensor]:
    """Scale and offset of every sub-block, each (n, subs)."""
    hw = h * w
    low, high = w.amin(2), w.amax(2)
    if below:
        low = low.clamp_max(0)
    width = (high - low).clamp_min(0)
    best = [width / top, low]
    most = torch.full_like(low, -torch.inf)
    starts = [(width / t, low + shift * width / t) for t, shift in _ranges(top)]
    starts += [] if known is None else [known]
    for turn in range(len(starts) + _TURNS):
        scale, offset = starts[turn] if turn < len(starts) else (best[0], best[1])
        codes = _nearest(w, scale, offset, top)
        scale, offset, gain = _Sums.of(w, h, hw, codes).solve(below=below)
        won = gain > most
        best = [torch.where(won, scale, best[0]), torch.where(won, offset, best[1])]
        most = torch.maximum(gain, most)
    return best[0], best[1]


def _ranges(top: int) -> list[tuple[float, float]]:
    """Steps the range is cut into, and how many of them its start moves up: clipping at either end, or beyond."""
    shifts = (0.0, 0.25, 0.5) if top < 8 else (0.0, 0.5)
    steps = torch.linspace(-0.9, 1.1 if top < 8 else 1.6, 10).tolist()
    return [(top + more, shift) for more, shift in product(steps, shifts)]


def _start(w: Tensor, h: Tensor, scale: Tensor, minimum: Tensor, grid: Affine) -> _Fit:
    sums = _Sums.of(w, h, h * w, _nearest(w, scale, -minimum, grid.top))
    d = _unit(scale, sums.qq, grid.scale_top)
    dmin = _unit(minimum, sums.one, grid.scale_top)
    return _with(w, h, d, dmin, _whole(scale, d, grid), _whole(minimum, dmin, grid), grid)


def _unit(wished: Tensor, weight: Tensor, top: int) -> Tensor:
    """The half whose multiples 0 to `top` come nearest to the wished numbers."""
    reach = wished.amax(1, keepdim=True)
    best, least = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
    for place in whole_places(top):
        unit = halved(reach / place)
        whole = (wished * inverse(unit)).round_().clamp_(0, top)
        loss = ((wished - unit * whole).square() * weight).sum(1, keepdim=True)
        best, least = torch.where(loss < least, unit, best), torch.minimum(loss, least)
    return best


def _whole(wished: Tensor, unit: Tensor, grid: Affine) -> Tensor:
    return (wished * inverse(unit)).round_().clamp_(0, grid.scale_top)


def _with(w: Tensor, h: Tensor, d: Tensor, dmin: Tensor, scales: Tensor, minima: Tensor, grid: Affine) -> _Fit:
    step, offset = d * scales, -(dmin * minima)
    codes = _nearest(w, step, offset, grid.top)
    loss = (step[:, :, None] * codes).add_(offset[:, :, None]).sub_(w).square_().mul_(h).sum(2)
    return _Fit(d, dmin, scales, minima, codes, loss)


def _neighbours(w: Tensor, h: Tensor, best: _Fit, grid: Affine) -> _Fit:
    """Every scale and minimum one up or down, with codes chosen anew."""
    for up, more in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1)):
        scales = (best.scales + up).clamp(0, grid.scale_top)
        minima = (best.minima + more).clamp(0, grid.scale_top)
        best = _better(_with(w, h, best.d, best.dmin, scales, minima, grid), best, by_block=False)
    return best


def _joint(w: Tensor, h: Tensor, best: _Fit, grid: Affine) -> _Fit:
    """For these codes the best halves, for those the best whole numbers, and codes chosen anew."""
    sums = _Sums.of(w, h, h * w, best.codes)
    d, dmin = _halves(sums, best.scales, best.minima)
    best = _better(_with(w, h, d, dmin, best.scales, best.minima, grid), best, by_block=True)
    scale, offset, _ = sums.solve(below=True)
    scales, minima = _whole(scale, d, grid), _whole(-offset, dmin, grid)
    return _better(_with(w, h, d, dmin, scales, minima, grid), best, by_block=True)


def _halves(sums: _Sums, scales: Tensor, minima: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares d and dmin of a block, each (n, 1)."""

    def total(values: Tensor) -> Tensor:
        return values.sum(1, keepdim=True)

    dd, mm, dm = total(scales.square() * sums.qq), total(minima.square() * sums.one), total(scales * minima * sums.q)
    dw, mw = total(scales * sums.qw), total(minima * sums.w)
    determinant = dd * mm - dm.square()
    d = torch.where(determinant > 0, ratio(dw * mm - dm * mw, determinant), ratio(dw, dd))
    dmin = ratio(dm * d - mw, mm)
    return halved(d.clamp_min(0)), halved(dmin.clamp_min(0))


def _better(new: _Fit, old: _Fit, *, by_block: bool) -> _Fit:
    """The better of two, by block, or by sub-block where the halves are the same."""
    loss, former = (new.loss.sum(1, True), old.loss.sum(1, True)) if by_block else (new.loss, old.loss)
    won = loss < former
    return replace(
        old,
        d=torch.where(won, new.d, old.d) if by_block else old.d,
        dmin=torch.where(won, new.dmin, old.dmin) if by_block else old.dmin,
        scales=torch.where(won, new.scales, old.scales),
        minima=torch.where(won, new.minima, old.minima),
        codes=torch.where(won[:, :, None], new.codes, old.codes),
        loss=torch.where(won, new.loss, old.loss),
    )
