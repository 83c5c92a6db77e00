"""Fitting blocks on a `Codebook`: ``w = d * scale * point * sign``.

The point nearest to x under weights h is the one of largest ``2 (h x) . p - t h . p^2``, t the scale: one matrix
product for all points. Signs go with the weights, so magnitudes are matched; where their number must be even, the one
that weighs least is turned. Scales of sub-blocks are searched by what they lose, then the block's half and the odd
scales chosen together, with points chosen anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from tailorbird.formats.ggml.blocks import Numbers, bits_of, halved
from tailorbird.formats.ggml.codebooks import points
from tailorbird.formats.ggml.nearest import inverse, ratio
from tailorbird.formats.ggml.types import BlockType, Codebook

# Where the search of a scale starts, in units of the one that gives points the size of the weights.
_STARTS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.45)
_TURNS = 2
# Scores held at a time: they stay in the processor's cache.
_SCORES = 2**18


class Search:
    """Weights of sub-blocks, and how well points match them.

    Args:
        w: float32 (n, subs, sub).
        h: float32, likewise or broadcastable to it; positive.
        grid: the codebook.
    """

    def __init__(self, w: Tensor, h: Tensor, grid: Codebook) -> None:
        self.grid, self.table, self.right = grid, points(grid), _right(grid)
        self.h = h.expand(w.shape)
        self.x, self.minus = _magnitudes(w, self.h, grid)
        self.hx = self.h * self.x

    def gain(self, step: Tensor) -> Tensor:
        """How much of sum h w^2 the best points explain at scales `step`, both (n, subs)."""
        most = self._best(step, codes=False)[0]
        if self.grid.shared:
            return step * most.sum(2).amax(2)
        return step * most.sum(2)

    def codes(self, step: Tensor, shift: Tensor | None = None) -> Tensor:
        """The best points at scales `step`, (n, subs): int64 (n, subs, points of a sub-block).

        Where shifts are shared, `shift` (n, subs) names them; None takes the best.
        """
        most, codes = self._best(step, codes=True)
        if not self.grid.shared:
            return codes
        shift = most.sum(2).argmax(2) if shift is None else shift
        index = shift[:, :, None, None].expand(*codes.shape[:3], 1)
        return (codes.gather(3, index) + index * (len(self.table) // 2)).squeeze(3)

    def shift(self, step: Tensor) -> Tensor:
        """The best shared shifts at scales `step`: int64 (n, subs)."""
        return self._best(step, codes=False)[0].sum(2).argmax(2)

    def levels(self, codes: Tensor) -> Tensor:
        """What points stand for at scale 1: float32 (n, subs, sub)."""
        level = self.table[codes].flatten(2)
        return level if self.minus is None else torch.where(self.minus, -level, level)

    def refit(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Of the levels of points: sum h w level and sum h level^2, each (n, subs)."""
        level = self.table[codes].flatten(2)
        return (self.hx * level).sum(2), (level.square() * self.h).sum(2)

    def _best(self, step: Tensor, *, codes: bool) -> tuple[Tensor, Tensor]:
        """Largest scores and their points, (n, subs, points of a sub-block), of both shifts where these are shared."""
        n, subs, sub = self.x.shape
        shape = (n, subs, sub // self.grid.dim, self.grid.dim)
        left = torch.cat([2 * self.hx.view(shape), -step[:, :, None, None] * self.h.reshape(shape)], 3).flatten(0, 2)
        halves = 2 if self.grid.shared else 1
        most, place = torch.empty(len(left), halves), torch.empty(len(left), halves, dtype=torch.int64)
        rows = max(1, _SCORES // len(self.table))
        for a in range(0, len(left), rows):
            score = (left[a : a + rows] @ self.right).view(-1, halves, len(self.table) // halves)
            if codes:
                torch.max(score, 2, out=(most[a : a + rows], place[a : a + rows]))
            else:
                torch.amax(score, 2, out=most[a : a + rows])
        found = (*shape[:3], halves) if self.grid.shared else shape[:3]
        return most.view(found), place.view(found)


@lru_cache(maxsize=8)
def _right(grid: Codebook) -> Tensor:
    """Points above their squares, (2 dim, points): what scores are made with."""
    table = points(grid)
    return torch.cat([table, table.square()], 1).T.contiguous()


def _magnitudes(w: Tensor, h: Tensor, grid: Codebook) -> tuple[Tensor, Tensor | None]:
    """Weights times their signs, and where those are minus; where these must be even, one of eight may be wrong."""
    if grid.signs == "shift":
        return w, None
    x, minus = w.abs(), w < 0
    if grid.signs == "even":
        eights = (*w.shape[:2], w.shape[2] // 8, 8)
        odd = minus.view(eights).sum(3, keepdim=True) & 1
        least = (x * h).view(eights).argmin(3, keepdim=True)
        turn = torch.zeros(x.view(eights).shape, dtype=torch.bool).scatter_(3, least, odd.bool()).view(w.shape)
        x, minus = torch.where(turn, -x, x), minus ^ turn
    return x, minus


@dataclass(frozen=True)
class _Fit:
    """Scales of blocks, and what they explain."""

    d: Tensor  # (n, 1)
    scales: Tensor  # (n, subs)
    gain: Tensor  # (n, subs)


def fit_points(w: Tensor, h: Tensor, kind: BlockType) -> Numbers:
    """Numbers that lose least of ``sum h (w - value)^2``.

    Args:
        w: float32 (n, subs, sub).
        h: float32, likewise or broadcastable to it; positive.
        kind: a type on a `Codebook`.
    """
    assert isinstance(kind.grid, Codebook)
    search = Search(w, h, kind.grid)
    best = _start(search, _best_step(search))
    for change in (-2, 2):
        best = _better(_with(search, best.d, best.scales + change), best, by_block=False)
    best = _joint(search, best)
    codes = search.codes(best.d * best.scales)
    signs = None if search.minus is None else bits_of(search.minus)
    return Numbers(best.d, codes.to(torch.int16), scales=best.scales, signs=signs)


def refit_points(search: Search, d: Tensor, scales: Tensor) -> Tensor:
    """Scales near the given ones, (n, subs), that explain most at halves d (n, 1)."""
    best = _with(search, d, scales)
    for change in (-4, -2, 2, 4):
        best = _better(_with(search, d, scales + change), best, by_block=False)
    return best.scales


def _best_step(search: Search) -> Tensor:
    """The scale of every sub-block that explains most, float32 (n, subs)."""
    size = ratio((search.hx * search.x).sum(2), search.h.sum(2)).sqrt() / search.table.square().mean().sqrt()
    best, most = size, torch.full_like(size, -torch.inf)
    for start in _STARTS:
        step = size * start
        gain = search.gain(step)
        best, most = torch.where(gain > most, step, best), torch.maximum(gain, most)
    for _ in range(_TURNS):
        best = ratio(*search.refit(search.codes(best))).clamp_min(0)
    return best


def _start(search: Search, step: Tensor) -> _Fit:
    """The d whose odd scales come nearest to the wished ones, by what that loses."""
    square = search.refit(search.codes(step))[1]
    reach, top = step.amax(1, keepdim=True), 2 * search.grid.top + 1
    best, least = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
    for place in range(top // 2, top + 3):
        d = halved(reach / place)
        loss = ((step - d * _odd(step * inverse(d), search.grid)).square() * square).sum(1, keepdim=True)
        best, least = torch.where(loss < least, d, best), torch.minimum(loss, least)
    return _with(search, best, step * inverse(best))


def _with(search: Search, d: Tensor, scales: Tensor) -> _Fit:
    scales = _odd(scales, search.grid)
    return _Fit(d, scales, search.gain(d * scales))


def _odd(scales: Tensor, grid: Codebook) -> Tensor:
    """The nearest odd scales that can be stored."""
    return ((scales - 1) / 2).round_().clamp_(0, grid.top).mul_(2).add_(1)


def _joint(search: Search, best: _Fit) -> _Fit:
    """For these points the best d, for that d the best scales, and points chosen anew."""
    along, square = search.refit(search.codes(best.d * best.scales))
    d = ratio((best.scales * along).sum(1, keepdim=True), (best.scales.square() * square).sum(1, keepdim=True))
    d = halved(d.clamp_min(0))
    best = _better(_with(search, d, best.scales), best, by_block=True)
    return _better(_with(search, d, ratio(along, square) * inverse(d)), best, by_block=True)


def _better(new: _Fit, old: _Fit, *, by_block: bool) -> _Fit:
    """The better of two, by block, or by sub-block where d is the same."""
    gain, former = (new.gain.sum(1, True), old.gain.sum(1, True)) if by_block else (new.gain, old.gain)
    won = gain > former
    return replace(
        old,
        d=torch.where(won, new.d, old.d) if by_block else old.d,
        scales=torch.where(won, new.scales, old.scales),
        gain=torch.where(won, new.gain, old.gain),
    )
