"""Blocks as numbers: unpacking, packing, and the values they stand for.

The order of the float32 operations is part of the contract: values equal ggml's bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.formats.ggml.layout import Strips, read
from tailorbird.formats.ggml.types import Affine, BlockType, Levels


@dataclass(frozen=True)
class Numbers:
    """What n blocks hold.

    Attributes:
        d: float32 (n, 1), halves.
        codes: uint8 (n, subs, sub), as stored.
        dmin: float32 (n, 1), halves, of an `Affine`.
        scales: float32 (n, subs), whole numbers, where sub-blocks have scales.
        minima: float32 (n, subs), likewise.
    """

    d: Tensor
    codes: Tensor
    dmin: Tensor | None = None
    scales: Tensor | None = None
    minima: Tensor | None = None

    @property
    def step(self) -> Tensor:
        """What a code or level is multiplied with: float32 (n, subs) or (n, 1)."""
        return self.d if self.scales is None else self.d * self.scales

    @property
    def offset(self) -> Tensor | None:
        """What is added to it: float32 (n, subs) or (n, 1)."""
        if self.dmin is None or self.minima is None:
            return self.dmin
        return -(self.dmin * self.minima)


def unpack(raw: Tensor, kind: BlockType) -> Numbers:
    """Numbers of blocks, uint8 (n, bytes)."""
    codes = read(raw, kind.codes, kind.weights).view(-1, kind.subs, kind.sub)
    dmin = _half(raw, kind.dmin) if isinstance(kind.grid, Affine) else None
    bias = kind.grid.scale_bias if isinstance(kind.grid, Levels) else 0
    scales = _signed(raw, kind.scales, kind.subs, bias) if kind.scales else None
    minima = _signed(raw, kind.minima, kind.subs, 0) if kind.minima else None
    return Numbers(_half(raw, kind.d), codes, dmin, scales, minima)


def pack(numbers: Numbers, kind: BlockType) -> Tensor:
    """Blocks of numbers, uint8 (n, bytes); whatever stands in `Numbers` must be within the type's ranges."""
    raw = torch.zeros(len(numbers.d), kind.nbytes, dtype=torch.uint8)
    bias = kind.grid.scale_bias if isinstance(kind.grid, Levels) else 0
    _write(raw, kind.codes, numbers.codes.flatten(1))
    for strips, values, shift in ((kind.scales, numbers.scales, bias), (kind.minima, numbers.minima, 0)):
        if values is not None:
            _write(raw, strips, (values + shift).to(torch.int16).to(torch.uint8))
    raw[:, kind.d : kind.d + 2] = numbers.d.to(torch.float16).view(torch.uint8)
    if numbers.dmin is not None:
        raw[:, kind.dmin : kind.dmin + 2] = numbers.dmin.to(torch.float16).view(torch.uint8)
    return raw


def values(numbers: Numbers, kind: BlockType) -> Tensor:
    """The weights that blocks stand for, float32 (n, weights)."""
    weights = numbers.step[:, :, None] * level_of(numbers.codes, kind.grid)
    if numbers.offset is not None:
        weights = weights + numbers.offset[:, :, None]
    return weights.flatten(1)


def level_of(codes: Tensor, grid: Levels | Affine) -> Tensor:
    """Levels of stored codes, float32."""
    if isinstance(grid, Affine):
        return codes.float()
    if grid.table is not None:
        return torch.tensor(grid.table, dtype=torch.float32)[codes.int()]
    return (codes - grid.bias).view(torch.int8).float()


def code_of(levels: Tensor, grid: Levels | Affine) -> Tensor:
    """Stored codes of levels, uint8."""
    if isinstance(grid, Affine):
        return levels.to(torch.uint8)
    if grid.table is not None:
        inverse = torch.zeros(256, dtype=torch.uint8)
        inverse[[level % 256 for level in grid.table]] = torch.arange(len(grid.table), dtype=torch.uint8)
        return inverse[levels.int() & 255]
    return (levels + grid.bias).to(torch.int16).to(torch.uint8)


def halved(values: Tensor) -> Tensor:
    """The nearest finite halves, as float32."""
    return values.clamp(-65504, 65504).to(torch.float16).float()


def _half(raw: Tensor, at: int) -> Tensor:
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def _signed(raw: Tensor, strips: Strips, elements: int, bias: int) -> Tensor:
    return (read(raw, strips, elements) - bias).view(torch.int8).float()


def _write(raw: Tensor, strips: Strips, field: Tensor) -> None:
    for strip in strips:
        strip.write(field, raw)
