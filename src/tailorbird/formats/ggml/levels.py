"""Fitting blocks on `Levels`: ``w = d * scale * level``.

A sub-block's scale is searched over several starts and refined by turns (levels for a scale, least-squares scale
for the levels). The block's d and the whole-numbered scales are then chosen together: best d for the wished scales,
and by turns levels, scales, d, each the best for the others, with the rounded numbers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tailorbird.formats.ggml.blocks import Numbers, code_of, halved
from tailorbird.formats.ggml.nearest import Nearest, inverse, nearest_level, ratio, whole_places
from tailorbird.formats.ggml.types import BlockType, Levels

_TURNS = 3
_ROUNDS = 3


@dataclass(frozen=True)
class _Fit:
    """Scales and levels of blocks, and what they lose."""

    d: Tensor  # (n, 1)
    scales: Tensor  # (n, subs)
    levels: Tensor  # (n, subs, sub)
    loss: Tensor  # (n, subs)


def fit_levels(w: Tensor, h: Tensor, kind: BlockType, known: tuple[Tensor, Tensor] | None = None) -> Numbers:
    """Numbers that lose least of ``sum h (w - value)^2``.

    Args:
        w: float32 (n, subs, sub).
        h: float32, likewise or broadcastable to it; positive.
        kind: a type on `Levels`.
        known: scale and offset of every sub-block, each (n, subs), to start from, too.
    """
    assert isinstance(kind.grid, Levels)
    near = nearest_level(kind.grid)
    step = best_step(w, h, kind.grid, None if known is None else known[0])
    fit = _block_scales(w, h, step, kind.grid, near) if kind.scales else _one_scale(w, h, step, near)
    codes = code_of(fit.levels, kind.grid)
    return Numbers(fit.d, codes, scales=fit.scales if kind.scales else None)


def refit_levels(w: Tensor, h: Tensor, d: Tensor, grid: Levels) -> Tensor:
    """Scales of sub-blocks for a given d: w (n, subs, sub) and d (n, 1) to whole numbers (n, subs)."""
    return (best_step(w, h, grid) * inverse(d)).round_().clamp_(grid.scale_low, grid.scale_high)


def best_step(w: Tensor, h: Tensor, grid: Levels, known: Tensor | None = None) -> Tensor:
    """The scale of every sub-block that loses least with nearest levels, float32 (n, subs); `known` is one more
    start."""
    near, hw = nearest_level(grid), h * w
    reach = w.abs().amax(2)
    best, most = torch.zeros_like(reach), torch.full_like(reach, -1.0)
    starts = [reach / divisor for divisor in _divisors(grid)]
    for start in starts if known is None else [*starts, known, -known, known / 2]:
        step, gain = _refit(w, h, hw, start, near)
        best, most = torch.where(gain > most, step, best), torch.maximum(gain, most)
    for _ in range(_TURNS):
        step, gain = _refit(w, h, hw, best, near)
        best, most = torch.where(gain > most, step, best), torch.maximum(gain, most)
    return best


def _divisors(grid: Levels) -> list[float]:
    """Where the largest magnitude of a sub-block may fall on the grid: a little short of its end to beyond it, on
    either side where the sides differ."""
    if grid.high - grid.low == 2 and grid.table is not None:  # two levels: every start gives the same signs
        return [1.0]
    few = grid.high - grid.low < 4
    reach = torch.linspace(0.6, 4.0, 18) if few else torch.linspace(0.7, 1.3, 16)
    same = grid.low == -grid.high
    found = [float(r) * grid.high for r in reach]
    return found if same else found + [float(r) * grid.low for r in reach]


def _refit(w: Tensor, h: Tensor, hw: Tensor, step: Tensor, near: Nearest) -> tuple[Tensor, Tensor]:
    """Least-squares scale for the nearest levels of a scale, and how much of sum h w^2 it explains: (n, subs)."""
    level = near(w * inverse(step)[:, :, None])
    along = (hw * level).sum(2)
    refit = ratio(along, (level.square() * h).sum(2))
    return refit, refit * along


def _one_scale(w: Tensor, h: Tensor, step: Tensor, near: Nearest) -> _Fit:
    d = halved(step)
    level = near(w * inverse(d)[:, :, None])
    return _Fit(d, torch.ones_like(d), level, torch.zeros_like(d))


def _block_scales(w: Tensor, h: Tensor, step: Tensor, grid: Levels, near: Nearest) -> _Fit:
    best = _start(w, h, step, grid, near)
    for _ in range(_ROUNDS):
        best = _neighbours(w, h, best, grid, near)
        best = _joint(w, h, best, grid, near)
    return best


def _start(w: Tensor, h: Tensor, step: Tensor, grid: Levels, near: Nearest) -> _Fit:
    """The d whose whole-numbered scales come nearest to the wished ones, by what that loses."""
    level = near(w * inverse(step)[:, :, None])
    weight = (level.square() * h).sum(2)
    reach = step.gather(1, step.abs().argmax(1, keepdim=True))
    best_d, least = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
    for place in (*whole_places(grid.scale_high), *whole_places(grid.scale_low)):
        d = halved(reach / place)
        scales = (step * inverse(d)).round_().clamp_(grid.scale_low, grid.scale_high)
        loss = ((step - d * scales).square() * weight).sum(1, keepdim=True)
        best_d, least = torch.where(loss < least, d, best_d), torch.minimum(loss, least)
    scales = (step * inverse(best_d)).round_().clamp_(grid.scale_low, grid.scale_high)
    return _with(w, h, best_d, scales, near)


def _with(w: Tensor, h: Tensor, d: Tensor, scales: Tensor, near: Nearest) -> _Fit:
    step = (d * scales)[:, :, None]
    level = near(w * inverse(step))
    return _Fit(d, scales, level, ((w - step * level).square() * h).sum(2))


def _neighbours(w: Tensor, h: Tensor, best: _Fit, grid: Levels, near: Nearest) -> _Fit:
    """Every scale one up or down, with levels chosen anew."""
    for change in (-1, 1):
        scales = (best.scales + change).clamp(grid.scale_low, grid.scale_high)
        best = _better(_with(w, h, best.d, scales, near), best, by_block=False)
    return best


def _joint(w: Tensor, h: Tensor, best: _Fit, grid: Levels, near: Nearest) -> _Fit:
    """For these levels the best d, for that d the best scales, and levels chosen anew."""
    along, weight = (h * w * best.levels).sum(2), (best.levels.square() * h).sum(2)
    d = ratio((best.scales * along).sum(1, keepdim=True), (best.scales.square() * weight).sum(1, keepdim=True))
    d = halved(d)
    scales = (ratio(along, weight) * inverse(d)).round_().clamp_(grid.scale_low, grid.scale_high)
    scales = torch.where(weight > 0, scales, best.scales)
    best = _better(_with(w, h, d, best.scales, near), best, by_block=True)
    return _better(_with(w, h, d, scales, near), best, by_block=True)


def _better(new: _Fit, old: _Fit, *, by_block: bool) -> _Fit:
    """The better of two, by block, or by sub-block where d is the same."""
    loss, former = (new.loss.sum(1, True), old.loss.sum(1, True)) if by_block else (new.loss, old.loss)
    won = loss < former
    return replace(
        old,
        d=torch.where(won, new.d, old.d) if by_block else old.d,
        scales=torch.where(won, new.scales, old.scales),
        levels=torch.where(won[:, :, None], new.levels, old.levels),
        loss=torch.where(won, new.loss, old.loss),
    )
