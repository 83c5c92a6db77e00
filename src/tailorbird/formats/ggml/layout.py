"""Where the bits of a block's fields stand: one description, read by the decoder and written by the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """One bit field of each of `count` bytes: elements ``first, first + step, ...`` of a field.

    Attributes:
        at: first byte in the block.
        count: bytes, and elements.
        first: element of the first byte.
        step: from one byte's element to the next one's.
        shift: lowest bit in the byte.
        width: bits.
        lift: lowest bit in the element.
        every: from one byte to the next one's.
    """

    at: int
    count: int
    first: int = 0
    step: int = 1
    shift: int = 0
    width: int = 8
    lift: int = 0
    every: int = 1

    def read(self, raw: Tensor, field: Tensor) -> None:
        """Add these bits of `raw`, uint8 (blocks, bytes), to `field`, whole numbers (blocks, elements)."""
        bits = (raw[:, self._bytes()] >> self.shift) & ((1 << self.width) - 1)
        field[:, self._elements()] |= bits.to(field.dtype) << self.lift

    def write(self, field: Tensor, raw: Tensor) -> None:
        """The inverse."""
        bits = (field[:, self._elements()] >> self.lift) & ((1 << self.width) - 1)
        raw[:, self._bytes()] |= bits.to(torch.uint8) << self.shift

    def _bytes(self) -> slice:
        return slice(self.at, self.at + self.every * (self.count - 1) + 1, self.every)

    def _elements(self) -> slice:
        return slice(self.first, self.first + self.step * (self.count - 1) + 1, self.step)


@dataclass(frozen=True)
class Trits:
    """`digits` base-3 digits of each of `count` bytes, the first digit of all bytes first.

    A byte holds ceil(256 / 243 * number), so that digits come out of its top by multiplication.
    """

    at: int
    count: int
    first: int
    digits: int

    def read(self, raw: Tensor, field: Tensor) -> None:
        """Write these digits of `raw` to `field`, both as in `Strip`."""
        left = raw[:, self.at : self.at + self.count].to(torch.int16)
        for n in range(self.digits):
            start = self.first + n * self.count
            field[:, start : start + self.count] = (left * 3) >> 8
            left = (left * 3) & 255

    def write(self, field: Tensor, raw: Tensor) -> None:
        """The inverse."""
        number = torch.zeros(len(raw), self.count, dtype=torch.int32)
        for n in range(self.digits):
            start = self.first + n * self.count
            number += field[:, start : start + self.count].to(torch.int32) * 3 ** (4 - n)
        raw[:, self.at : self.at + self.count] = (number * 256 + 242).div(243, rounding_mode="floor").to(torch.uint8)


Strips = Sequence[Strip | Trits]


def runs(at: int, count: int, width: int, run: int, lift: int = 0) -> tuple[Strip, ...]:
    """Fields of `width` bits in `count` bytes from `at`: of every `run` bytes the lowest field of each, then the next
    one, and so on."""
    fields = 8 // width
    return tuple(
        Strip(at + start, run, start * fields + run * n, 1, width * n, width, lift)
        for start in range(0, count, run)
        for n in range(fields)
    )


def bit_string(at: int, count: int, lift: int = 0) -> tuple[Strip, ...]:
    """`count` bytes as single bits, lowest first: bit j of byte k is of element 8 k + j."""
    return tuple(Strip(at, count, j, 8, j, 1, lift) for j in range(8))


def words(
    at: int, count: int, size: int, low: int, width: int, first: int = 0, step: int = 1, lift: int = 0
) -> tuple[Strip, ...]:
    """The bits `low` to ``low + width`` of each of `count` little-endian words of `size` bytes from `at` on."""
    found, bit = [], low
    while bit < low + width:
        here = min(8 - bit % 8, low + width - bit)
        found.append(Strip(at + bit // 8, count, first, step, bit % 8, here, lift + bit - low, size))
        bit += here
    return tuple(found)


def read(raw: Tensor, strips: Strips, elements: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """A field of every block: whole numbers (blocks, elements)."""
    field = torch.zeros(len(raw), elements, dtype=dtype)
    for strip in strips:
        strip.read(raw, field)
    return field
