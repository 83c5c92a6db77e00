"""Coders: how the weights of one group of columns become codes, with values that are linear in a few numbers a row.

A coder holds no weights. It is given weights with columns first, ``w`` (group, rows), and its numbers are (k, rows):
scale and offset of an affine group, or the scales of free planes. What it can do is start, find the numbers that fit
given codes best (least squares in the metric of the sweep), round them to what is stored, and find the nearest code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tailorbird.fit.groups import Fitter
from tailorbird.formats.grid import Units, stored
from tailorbird.formats.spec import PlaneSpec

_TINY = 1e-12
# From weights of a column (rows,) to their codes, as floats, and the values these stand for.
Nearest = Callable[[Tensor], tuple[Tensor, Tensor]]


class Coder(Protocol):
    """One group's way to codes."""

    def start(self, w: Tensor) -> Tensor:
        """Numbers (k, rows) to begin with."""
        ...

    def solve(self, codes: Tensor, numbers: Tensor, root: Tensor, target: Tensor) -> Tensor:
        """Numbers that bring these codes closest to the target, not yet as they are stored.

        Args:
            codes: float32 (group, rows).
            numbers: those so far.
            root: V (group, group); the loss is |V^T d|^2 with d (group, rows) what the values miss.
            target: V^T w, (group, rows).
        """
        ...

    def snap(self, numbers: Tensor) -> Tensor:
        """Numbers as the format stores them."""
        ...

    def nearest(self, numbers: Tensor) -> Nearest:
        """What finds the nearest codes under these numbers."""
        ...

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """What codes stand for, (group, rows)."""
        ...


@dataclass(frozen=True)
class AffineCoder:
    """Codes of one group of `BitPlanes`; numbers are scale and offset.

    Attributes:
        spec: the format of this one group.
        units: of its rows.
        fitter: where to start.
    """

    spec: PlaneSpec
    units: Units
    fitter: Fitter

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2 ** self.spec.bits[0]) - 1

    def start(self, w: Tensor) -> Tensor:
        """The fitter's scale and offset."""
        return torch.stack(self.fitter(w, self.spec.bits[0], self.spec.offset))

    def snap(self, numbers: Tensor) -> Tensor:
        """Rounded to the grid."""
        found = stored(numbers[0][:, None], numbers[1][:, None], self.spec, self.units)
        return torch.cat(found, 1).T.contiguous()

    def nearest(self, numbers: Tensor) -> Nearest:
        """Evenly spaced values."""
        scale, offset = numbers

        def find(w: Tensor) -> tuple[Tensor, Tensor]:
            code = (w - offset).div_(scale).round_().clamp_(0, self.top)
            return code, torch.addcmul(offset, code, scale)

        return find

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """As `BitPlanes`."""
        return torch.addcmul(numbers[1], codes, numbers[0])

    def solve(self, codes: Tensor, numbers: Tensor, root: Tensor, target: Tensor) -> Tensor:
        """Scale and offset; where the offset is a zero point, the scale anew once that is rounded."""
        seen, one = root.T @ codes, root.sum(0)
        if self.spec.offset == "float" or (self.spec.offset == "integer" and self.spec.bits[0] > 1):
            square, cross, ones = seen.square().sum(0), one @ seen, one @ one
            gain, rise = (seen * target).sum(0), one @ target
            scale = (gain * ones - rise * cross) / (square * ones - cross.square()).clamp_min(_TINY)
            scale = torch.where(scale > _TINY, scale, numbers[0])
            offset = (rise - scale * cross) / ones
            if self.spec.offset == "float":
                return torch.stack([scale, offset])
            zero = (-offset / scale).round().clamp(0, self.top)
        else:
            zero = -numbers[1] / numbers[0]
        centred = seen - one[:, None] * zero
        scale = (centred * target).sum(0) / centred.square().sum(0).clamp_min(_TINY)
        scale = torch.where(scale > _TINY, scale, numbers[0])
        return torch.stack([scale, -scale * zero])


@dataclass(frozen=True)
class PlaneCoder:
    """Codes of one group of free planes: ``w = sum over planes of (bit - 1/2) * scale``; numbers are the scales.

    Attributes:
        spec: the format of one plane of this group.
        units: of its rows, for every plane.
    """

    spec: PlaneSpec
    units: tuple[Units, ...]

    def start(self, w: Tensor) -> Tensor:
        """Twice the mean magnitude of what the planes before leave."""
        return residual_scales(w, len(self.units))

    def snap(self, numbers: Tensor) -> Tensor:
        """Rounded to the grid, plane by plane."""
        rows = [
            stored(scale[:, None], scale[:, None], self.spec, units)[0][:, 0]
            for scale, units in zip(numbers, self.units, strict=True)
        ]
        return torch.stack(rows)

    def nearest(self, numbers: Tensor) -> Nearest:
        """The nearest of all sums of the planes."""
        return {1: _one_plane, 2: _two_planes}.get(len(numbers), _planes)(numbers / 2)

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """The sum of the planes."""
        bits = codes.to(torch.uint8)
        out = torch.zeros_like(codes)
        for p, scale in enumerate(numbers):
            out += ((bits >> p & 1).float() - 0.5) * scale
        return out

    def solve(self, codes: Tensor, numbers: Tensor, root: Tensor, target: Tensor) -> Tensor:
        """Least squares over the planes' scales; a negative one is its plane turned round."""
        bits = codes.to(torch.uint8)
        seen = torch.stack([root.T @ ((bits >> p & 1).float() - 0.5) for p in range(len(numbers))])
        normal = (seen[:, None] * seen[None]).sum(2).permute(2, 0, 1)
        right = (seen * target).sum(1).T
        normal += 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(len(numbers))
        scales: Tensor = torch.linalg.solve(normal, right[..., None])[..., 0].T
        return scales.abs()


def residual_scales(w: Tensor, planes: int) -> Tensor:
    """Scales of residual binary: twice the mean magnitude of what the planes before leave of ``w`` (group, rows);
    (planes, rows)."""
    rest, scales = w, []
    for _ in range(planes):
        half = rest.abs().mean(0)
        scales.append(2 * half)
        rest = rest - torch.where(rest >= 0, half, -half)
    return torch.stack(scales)


def _one_plane(halves: Tensor) -> Nearest:
    half = halves[0]

    def find(w: Tensor) -> tuple[Tensor, Tensor]:
        up = w >= 0
        return up.float(), torch.where(up, half, -half)

    return find


def _two_planes(halves: Tensor) -> Nearest:
    large, small = halves.amax(0), halves.amin(0)
    of_large = torch.where(halves[0] >= halves[1], 1.0, 2.0)
    of_small, outer, inner = 3.0 - of_large, large + small, large - small

    def find(w: Tensor) -> tuple[Tensor, Tensor]:
        up, far = w >= 0, w.abs() >= large
        size = torch.where(far, outer, inner)
        return up * of_large + (up == far) * of_small, torch.where(up, size, -size)

    return find


def _planes(halves: Tensor) -> Nearest:
    codes = torch.arange(2 ** len(halves))[:, None] >> torch.arange(len(halves))
    values, order = (((codes & 1) * 2.0 - 1.0) @ halves).sort(0)
    borders = (values[1:] + values[:-1]) / 2

    def find(w: Tensor) -> tuple[Tensor, Tensor]:
        place = (w > borders).sum(0, keepdim=True)
        return order.gather(0, place)[0].float(), values.gather(0, place)[0]

    return find
