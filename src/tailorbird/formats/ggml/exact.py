"""Which packed weights a block type holds without changing a bit, and writing them.

A group of `BitPlanes` without float offsets is ``scale * level`` with whole levels (a single bit: half the scale times
-1 or 1); types with one half a block hold that where the half is the group's and the levels are theirs. Float offsets
go into the types that have an offset a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.ggml.blocks import Numbers, code_of, pack
from tailorbird.formats.ggml.types import TYPES, Affine, BlockType, Codebook, Levels
from tailorbird.formats.grid import Grid
from tailorbird.formats.packed import Spec
from tailorbird.formats.spec import PlaneSpec


def exact_type(spec: Spec) -> BlockType | None:
    """The smallest block type that holds every weight of this format, if any."""
    fitting = [kind for kind in TYPES.values() if isinstance(spec, PlaneSpec) and _holds(kind, spec)]
    return min(fitting, key=lambda kind: kind.bits, default=None)


def nearest_exact(spec: PlaneSpec) -> PlaneSpec:
    """The spec where a type holds it; else the symmetric one whose type has its bits, or the next more.

    A row that no block of 32 divides comes back as it is.
    """
    if exact_type(spec) or spec.cols % 32:
        return spec
    return _plain(spec.cols, max(spec.bits), 32)


def without_waste(spec: PlaneSpec) -> PlaneSpec:
    """The spec where a type holds it and keeps no code in more bits than it has; else the symmetric one whose type has
    its bits, or the next more.

    No plain type has 2 or 3 bits: these become 4 under scales for 128 and 64 columns, which an artifact keeps in less.
    A row that no block of 32 divides comes back as it is.
    """
    kind = exact_type(spec)
    if spec.cols % 32 or (kind and min(spec.bits) >= _code_bits(kind)):
        return spec
    wanted = {1: 128, 2: 128, 3: 64}.get(max(spec.bits), 32)
    return _plain(spec.cols, max(spec.bits), next(size for size in (wanted, 64, 32) if spec.cols % size == 0))


def _plain(cols: int, bits: int, group_size: int) -> PlaneSpec:
    """The symmetric spec of the next width that a plain type has; `group_size` is of more than a bit."""
    bits = next(known for known in (1, 4, 5, 8) if known >= bits and (known > 1 or cols % 128 == 0))
    return PlaneSpec.uniform(bits, cols, 128 if bits == 1 else group_size, "none", "fp16")


def _code_bits(kind: BlockType) -> float:
    """Bits of a code in a type without scales by sub-block: what its halves leave."""
    return kind.bits - 16 * (1 if kind.dmin < 0 else 2) / kind.weights


def exact_blocks(planes: BitPlanes, kind: BlockType) -> Tensor:
    """The blocks that stand for `planes`, uint8 (rows, bytes of a row); `kind` is the `exact_type` of its format."""
    spec = planes.spec
    assert not isinstance(kind.grid, Codebook)
    scale, offset = Grid(spec, planes.arrays).values()
    codes = planes.codes().view(planes.rows, len(spec.bits), spec.group_size).float()
    if isinstance(kind.grid, Levels):
        one = torch.tensor(spec.bits) == 1
        zero = torch.where(one, 0.0, (-offset / scale).round())
        levels = codes - zero[:, :, None]
        levels[:, one] = 2 * codes[:, one] - 1
        scale = torch.where(one, scale / 2, scale)
        if _turned(kind.grid, spec):
            scale, levels = -scale, -levels
        codes = levels
    blocks = spec.group_size // kind.weights
    d = scale.repeat_interleave(blocks, 1).view(-1, 1)
    dmin = offset.repeat_interleave(blocks, 1).view(-1, 1) if isinstance(kind.grid, Affine) else None
    numbers = Numbers(d, code_of(codes, kind.grid).view(-1, kind.subs, kind.sub), dmin)
    return pack(numbers, kind).view(planes.rows, -1)


def _holds(kind: BlockType, spec: PlaneSpec) -> bool:
    if spec.scale != "fp16" or spec.column_order or spec.group_size % kind.weights or kind.scales:
        return False
    if isinstance(kind.grid, Codebook):
        return False
    if isinstance(kind.grid, Affine) or spec.offset == "float":
        return isinstance(kind.grid, Affine) and spec.offset == "float" and max(spec.bits) <= kind.grid.top.bit_length()
    if kind.grid.table is not None:
        return kind.name == "Q1_0" and set(spec.bits) == {1}
    low, high = _span(spec)
    return _within(kind.grid, low, high) or _turned(kind.grid, spec)


def _turned(grid: Levels, spec: PlaneSpec) -> bool:
    """The levels fit with the scale's sign turned, only."""
    low, high = _span(spec)
    return not _within(grid, low, high) and _within(grid, -high, -low)


def _within(grid: Levels, low: int, high: int) -> bool:
    return grid.low - grid.spare <= low and high <= grid.high


def _span(spec: PlaneSpec) -> tuple[int, int]:
    """Lowest and highest level that a format can need."""
    lows, highs = [], []
    for bits in set(spec.bits):
        top = 2**bits - 1
        if bits == 1:
            low, high = -1, 1
        elif spec.offset == "integer":
            low, high = -top, top
        else:
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)
