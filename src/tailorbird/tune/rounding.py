"""Hard forward, stated surrogate backward: the two straight-through estimators everything here is learned with.

Source of the gradient with respect to the scale: Esser et al., learned step size quantization, arXiv 1902.08153; of
    the one with respect to the shift: SignRound, arXiv 2309.05516.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, offset: Tensor, shift: Tensor | None, top: Tensor) -> Tensor:
        scale, offset = scale[:, :, None], offset[:, :, None]
        place = (weight - offset).div_(scale)
        if shift is not None:
            place += shift
        place.round_()
        ctx.inside = (place >= 0) & (place <= top)
        codes = torch.minimum(place.clamp_min_(0), top, out=place)
        ctx.save_for_backward(weight, scale, offset, codes)
        return (codes * scale).add_(offset)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, offset, codes = ctx.saved_tensors
        needs = ctx.needs_input_grad
        through = slope * ctx.inside
        by_scale = by_offset = None
        if needs[1]:
            by_scale = (slope * codes).sum(2) - (through * (weight - offset)).sum(2) / scale[:, :, 0]
        if needs[2]:
            by_offset = slope.sum(2) - through.sum(2)
        return None, by_scale, by_offset, through.mul_(scale) if needs[3] else None, None


def rounded(weight: Tensor, scale: Tensor, offset: Tensor, top: Tensor, shift: Tensor | None = None) -> Tensor:
    """``code * scale + offset`` with ``code = clamp(round((weight - offset) / scale + shift), 0, top)``.

    Backward, what `round` adds counts as a constant: inside the codes the result moves with the shift, outside with the
    end of the range alone. The weight itself gets no gradient.

    Args:
        weight: float32 (rows, groups, group size).
        scale: of every group, (rows, groups).
        offset: the same.
        top: largest code of every group, (groups, 1).
        shift: what is added before rounding, in codes; of the weight's shape.

    Returns:
        float32 (rows, groups, group size).
    """
    found: Tensor = _Rounded.apply(weight, scale, offset, shift, top)  # type: ignore[no-untyped-call]
    return found


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, instead: Tensor) -> Tensor:
        return instead.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor, None]:
        return slope, None


def through(value: Tensor, instead: Tensor) -> Tensor:
    """`instead` forward, the identity on `value` backward: what a grid does to a number counts as a constant."""
    found: Tensor = _Through.apply(value, instead)  # type: ignore[no-untyped-call]
    return found
