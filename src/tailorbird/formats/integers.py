"""A packed weight as most runtimes write one: ``w = (code - zero) * scale`` with whole numbers of one width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.grid import Grid, scale_values


@dataclass(frozen=True)
class Integers:
    """Codes and grid in one width of bits.

    Attributes:
        codes: uint8 (rows, cols), below ``2**bits``, in stored column order.
        zeros: uint8 (rows, groups); None where all are ``2**(bits - 1)``.
        scale: float32 (rows, groups).
    """

    codes: Tensor
    zeros: Tensor | None
    scale: Tensor


def integers(planes: BitPlanes, bits: int, groups: Sequence[int] | None = None) -> Integers:
    """The same weight in codes of `bits` bits, two at least, whatever narrower widths it has; nothing is rounded.

    Args:
        planes: the weight, without float offsets.
        bits: of the codes made.
        groups: only these of its groups, none of which is wider.

    A symmetric group's codes move up so that its zero point is the middle of the wider range. One bit, +-s/2, becomes
    the codes -1 and +1 around the zero point under half the scale.
    """
    spec = planes.spec
    mine = list(range(len(spec.bits))) if groups is None else list(groups)
    widths = [spec.bits[group] for group in mine]
    assert spec.offset != "float" and max(widths) <= bits and bits > 1
    codes = planes.codes().view(planes.rows, len(spec.bits), spec.group_size)[:, mine]
    zeros, scale = Grid(spec, planes.arrays).zeros()[:, mine], scale_values(planes.arrays)[:, mine]
    single = torch.tensor([width == 1 for width in widths])
    codes = torch.where(single[:, None], 2 * codes, codes)
    zeros = torch.where(single, 1.0, zeros)
    scale = torch.where(single, scale / 2, scale)
    centred = torch.tensor([spec.offset == "none" or width == 1 for width in widths])
    middle = float(2 ** (bits - 1))
    shift = torch.where(centred, middle - zeros, 0.0).to(torch.uint8)
    zeros = torch.where(centred, middle, zeros)
    codes = (codes + shift[:, :, None]).flatten(1)
    return Integers(codes, None if bool(centred.all()) else zeros.to(torch.uint8), scale)


def signed(planes: BitPlanes, bits: int) -> Integers:
    """The same without zero points: codes less their zero points, around ``2**(bits - 1)``.

    It takes a bit more than the widest group with a zero point of its own has.
    """
    wide = integers(planes, max(2, *planes.spec.bits))
    if wide.zeros is None:
        shift = 2 ** (bits - 1) - 2 ** (max(2, *planes.spec.bits) - 1)
        return Integers(wide.codes + shift, None, wide.scale)
    codes = wide.codes.view(*wide.scale.shape, planes.spec.group_size).to(torch.int16)
    moved = codes - wide.zeros[:, :, None].to(torch.int16) + 2 ** (bits - 1)
    return Integers(moved.to(torch.uint8).view(planes.rows, planes.spec.cols), None, wide.scale)


def product(planes: BitPlanes) -> Tensor:
    """``(code - zero) * scale`` as runtimes compute it, float32 (rows, cols) in the weight's own column order.

    `BitPlanes.dequantize` adds two products, each rounded: above five bits the last bits of a float32 may differ.
    """
    grid = Grid(planes.spec, planes.arrays)
    codes = planes.codes().view(planes.rows, len(planes.spec.bits), planes.spec.group_size).float()
    weight = ((codes - grid.zeros()[:, :, None]) * scale_values(planes.arrays)[:, :, None]).flatten(1)
    if planes.spec.column_order:
        weight = torch.empty_like(weight).index_copy_(1, planes.arrays["column_order"].long(), weight)
    return weight


def bitstream(codes: Tensor, bits: int) -> Tensor:
    """Codes one after the other, lowest bit first: uint8 (rows, n) to uint8 (rows, ceil(n * bits / 8))."""
    if bits == 8:
        return codes.contiguous()
    shifts = np.arange(bits, dtype=np.uint8)
    single = (codes.numpy()[..., None] >> shifts) & 1
    return torch.from_numpy(np.packbits(single.reshape(len(codes), -1), axis=-1, bitorder="little"))


def words(codes: Tensor, bits: int) -> Tensor:
    """The same as int32 (rows, ceil(n * bits / 32)), the end filled with zeros."""
    stream = bitstream(codes, bits)
    return torch.nn.functional.pad(stream, (0, -stream.shape[1] % 4)).contiguous().view(torch.int32)
