"""Blocks as numbers: unpacking, packing, and the values they stand for.

The order of the float32 operations is part of the contract: values equal ggml's bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.formats.ggml.codebooks import points
from tailorbird.formats.ggml.layout import Strips, read
from tailorbird.formats.ggml.types import Affine, BlockType, Codebook, Grid, Levels


@dataclass(frozen=True)
class Numbers:
    """What n blocks hold.

    Attributes:
        d: float32 (n, 1), halves.
        codes: uint8 (n, subs, sub), as stored; of a `Codebook` int16 (n, subs, sub / dim).
        dmin: float32 (n, 1), halves, of an `Affine`.
        scales: float32 (n, subs), whole numbers, where sub-blocks have scales.
        minima: float32 (n, subs), likewise.
        signs: uint8 (n, subs, sub / 8), a bit of each of eight weights, where they are beside the codes.
    """

    d: Tensor
    codes: Tensor
    dmin: Tensor | None = None
    scales: Tensor | None = None
    minima: Tensor | None = None
    signs: Tensor | None = None

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
    if isinstance(kind.grid, Codebook):
        return _unpack_points(raw, kind, kind.grid)
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
    scales = numbers.scales
    if isinstance(kind.grid, Codebook) and scales is not None:
        scales = (scales - 1) / 2
    _write(raw, kind.codes, numbers.codes.flatten(1))
    if numbers.signs is not None:
        _write(raw, kind.signs, numbers.signs.flatten(1))
    for strips, values, shift in ((kind.scales, scales, bias), (kind.minima, numbers.minima, 0)):
        if values is not None:
            _write(raw, strips, (values + shift).to(torch.int16).to(torch.uint8))
    _put_half(raw, kind.d, numbers.d)
    if numbers.dmin is not None:
        _put_half(raw, kind.dmin, numbers.dmin)
    return raw


def values(numbers: Numbers, kind: BlockType) -> Tensor:
    """The weights that blocks stand for, float32 (n, weights)."""
    levels = level_of(numbers.codes, kind.grid)
    if numbers.signs is not None:
        levels = levels * sign_of(numbers.signs)
    weights = numbers.step[:, :, None] * levels
    if numbers.offset is not None:
        weights = weights + numbers.offset[:, :, None]
    return weights.flatten(1)


def level_of(codes: Tensor, grid: Grid) -> Tensor:
    """Levels of stored codes, float32; of a `Codebook` those of its points, one after the other."""
    if isinstance(grid, Affine):
        return codes.float()
    if isinstance(grid, Codebook):
        return points(grid)[codes.int()].flatten(-2)
    if grid.table is not None:
        return torch.tensor(grid.table, dtype=torch.float32)[codes.int()]
    return (codes - grid.bias).view(torch.int8).float()


def sign_of(signs: Tensor) -> Tensor:
    """1 and -1 for the bits of signs, float32 (..., weights)."""
    bits = (signs[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return 1 - 2 * bits.flatten(-2).float()


def bits_of(minus: Tensor) -> Tensor:
    """The inverse, of a mask (..., weights): uint8 (..., weights / 8)."""
    places = 1 << torch.arange(8, dtype=torch.uint8)
    return (minus.view(*minus.shape[:-1], minus.shape[-1] // 8, 8) * places).sum(-1, dtype=torch.uint8)


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


def _unpack_points(raw: Tensor, kind: BlockType, grid: Codebook) -> Numbers:
    codes = read(raw, kind.codes, kind.weights // grid.dim, torch.int16).view(len(raw), kind.subs, -1)
    scales = 2 * read(raw, kind.scales, kind.subs).float() + 1
    if not kind.signs:
        return Numbers(_half(raw, kind.d), codes, scales=scales)
    signs = read(raw, kind.signs, kind.weights // 8)
    if grid.signs == "even":  # the eighth makes it so
        halves = signs ^ (signs >> 4)
        halves = halves ^ (halves >> 2)
        signs |= ((halves ^ (halves >> 1)) & 1) << 7
    return Numbers(_half(raw, kind.d), codes, scales=scales, signs=signs.view(len(raw), kind.subs, -1))


def _half(raw: Tensor, at: int | Strips) -> Tensor:
    if isinstance(at, int):
        return raw[:, at : at + 2].contiguous().view(torch.float16).float()
    return read(raw, at, 1, torch.int32).to(torch.int16).view(torch.float16).float()


def _put_half(raw: Tensor, at: int | Strips, values: Tensor) -> None:
    halves = values.to(torch.float16)
    if isinstance(at, int):
        raw[:, at : at + 2] = halves.view(torch.uint8)
    else:
        _write(raw, at, halves.view(torch.int16).to(torch.int32))


def _signed(raw: Tensor, strips: Strips, elements: int, bias: int) -> Tensor:
    return (read(raw, strips, elements) - bias).view(torch.int8).float()


def _write(raw: Tensor, strips: Strips, field: Tensor) -> None:
    for strip in strips:
        strip.write(field, raw)
