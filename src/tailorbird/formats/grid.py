"""Scales and offsets of a packed weight, rounded to what is stored before any code is chosen.

Fitters ask `Grid.store` first and quantise with `Grid.values`, so the codes fit the numbers the file will hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.formats.spec import PlaneSpec
from tailorbird.kernels.reference import join_bits, pack_bits, split_bits, unpack_bits

_TINY = 6.2e-5  # just above the smallest normal half


@dataclass(frozen=True)
class Units:
    """The halves a row against which 8-bit scales and offsets are read, both float16 (rows,)."""

    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, scale: Tensor, offset: Tensor, spec: PlaneSpec, headroom: float = 1.0) -> Units:
        """Units that reach `headroom` times the largest scale and offset of each row of (rows, groups)."""
        if spec.scale == "fp16":
            none = torch.empty(0)
            return cls(none, none)
        return cls(row_unit(scale * headroom, 255), row_unit(offset * headroom, 127))

    def rows(self, start: int, stop: int) -> Units:
        """The units of some rows."""
        return Units(self.scale[start:stop], self.offset[start:stop])


@dataclass(frozen=True)
class Grid:
    """Stored scales and offsets of a weight with `spec`: the arrays beside `planes` in `BitPlanes`."""

    spec: PlaneSpec
    arrays: Mapping[str, Tensor]

    @classmethod
    def store(cls, scale: Tensor, offset: Tensor, spec: PlaneSpec, units: Units | None = None) -> Grid:
        """Round float32 scales and offsets, both (rows, groups), to their stored form.

        `units` are the row scales of a ``u8`` grid when they were fixed before (a sweep fixes them first and meets the
        groups one by one); storing values that are already on the grid changes nothing.
        """
        arrays = _numbers(scale, offset, spec, units)
        if spec.offset == "integer":
            arrays["zeros"] = _pack_zeros(zero_points(scale_values(arrays), offset, spec), spec)
        return cls(spec, arrays)

    def values(self) -> tuple[Tensor, Tensor]:
        """(scale, offset) as float32, both (rows, groups), exactly as every kernel must read them."""
        scale = scale_values(self.arrays)
        return scale, offset_values(self.arrays) if self.spec.offset == "float" else -scale * self.zeros()

    def zeros(self) -> Tensor:
        """Zero points as float32 (rows, groups), 1/2 for a group of one bit; formats with float offsets have none."""
        scales = self.arrays["scales"]
        zeros = middle(self.spec).to(scales.device).repeat(len(scales), 1)
        if self.spec.offset == "none":
            return zeros
        flat = unpack_bits(self.arrays["zeros"], 1, zero_bits(self.spec))
        for bits, groups in self.spec.runs:
            if bits > 1:
                mine, flat = flat[:, : bits * len(groups)], flat[:, bits * len(groups) :]
                zeros[:, groups] = join_bits(mine, bits).float()
        return zeros


def middle(spec: PlaneSpec) -> Tensor:
    """Zero point of a symmetric group: 2**(bits - 1), for one bit 1/2. Float32 (groups,)."""
    return torch.tensor([0.5 if bits == 1 else float(2 ** (bits - 1)) for bits in spec.bits])


def row_unit(values: Tensor, steps: int) -> Tensor:
    """The half a row that lets `steps` steps reach the row's largest magnitude; float16 (rows,)."""
    unit = values.abs().amax(dim=1) / steps
    # Rounded up, so that the largest value of the row stays within reach.
    return (unit * (1 + 2**-11)).clamp(_TINY / 256, 65504).to(torch.float16)


def scale_values(arrays: Mapping[str, Tensor]) -> Tensor:
    """Stored scales as float32 (rows, groups)."""
    scale = arrays["scales"].float()
    return scale * arrays["row_scales"].float()[:, None] if "row_scales" in arrays else scale


def offset_values(arrays: Mapping[str, Tensor]) -> Tensor:
    """Stored offsets as float32 (rows, groups)."""
    offset = arrays["offsets"].float()
    return offset * arrays["row_offsets"].float()[:, None] if "row_offsets" in arrays else offset


def stored(scale: Tensor, offset: Tensor, spec: PlaneSpec, units: Units | None = None) -> tuple[Tensor, Tensor]:
    """Scales and offsets as they are read once they were stored: `Grid.values` of what `Grid.store` gives, with nothing
    packed on the way."""
    arrays = _numbers(scale, offset, spec, units)
    scale = scale_values(arrays)
    if spec.offset == "float":
        return scale, offset_values(arrays)
    zeros = middle(spec)
    if spec.offset == "integer":
        several = torch.tensor([bits > 1 for bits in spec.bits])
        zeros = torch.where(several, zero_points(scale, offset, spec).float(), zeros)
    return scale, -scale * zeros


def _numbers(scale: Tensor, offset: Tensor, spec: PlaneSpec, units: Units | None) -> dict[str, Tensor]:
    """The arrays of a grid but for the zero points."""
    units = units or Units.of(scale, offset, spec)
    arrays = {}
    if spec.scale == "fp16":
        arrays["scales"] = scale.clamp(_TINY, 65504).to(torch.float16)
    else:
        arrays["row_scales"] = units.scale
        arrays["scales"] = _codes(scale, units.scale, 1, 255).to(torch.uint8)
    if spec.offset == "float" and spec.scale == "fp16":
        arrays["offsets"] = offset.clamp(-65504, 65504).to(torch.float16)
    elif spec.offset == "float":
        arrays["row_offsets"] = units.offset
        arrays["offsets"] = _codes(offset, units.offset, -127, 127).to(torch.int8)
    return arrays


def zero_points(scale: Tensor, offset: Tensor, spec: PlaneSpec) -> Tensor:
    """Nearest zero point of every group to -offset / scale, uint8 (rows, groups), within the group's codes."""
    top = torch.tensor([2**bits - 1 for bits in spec.bits])
    return (-offset / scale.clamp_min(1e-30)).round().clamp(torch.zeros(()), top).to(torch.uint8)


def _codes(values: Tensor, unit: Tensor, low: int, high: int) -> Tensor:
    return (values / unit.float()[:, None]).round().clamp(low, high)


def zero_bits(spec: PlaneSpec) -> int:
    """Bits of all zero points of a row; they stand in one string, in stored order of the groups."""
    return sum(bits for bits in spec.bits if bits > 1)


def _pack_zeros(zeros: Tensor, spec: PlaneSpec) -> Tensor:
    runs = [split_bits(zeros[:, groups], bits) for bits, groups in spec.runs if bits > 1]
    return pack_bits(torch.cat(runs, dim=1), 1) if runs else zeros[:, :0]
