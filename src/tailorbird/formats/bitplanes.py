"""`BitPlanes`: one packed weight. ``w[r, j] = code[r, j] * scale[r, g] + offset[r, g]``, g the group of column j.

With the code written as bits, ``w = sum_p scale 2**p / 2 * S_p + c`` with S_p in {-1, +1}: the sum of planes every
kernel of this project works on. The layout is canonical; a kernel may lay weights out anew in memory, never on disk.

Stored arrays (all little-endian), rows first so that a row can be gathered:

====================  ===========  ======================================================================
name                  dtype        shape and meaning
====================  ===========  ======================================================================
planes                uint8        (rows, sum over runs of bits * ceil(columns / 8)); runs by rising bits
scales                f16 | uint8  (rows, groups), groups in column order
row_scales            f16          (rows,), only with 8-bit scales: scale = row_scale * code
zeros                 uint8        (rows, ceil(sum of bits of groups above one bit / 8)), only integer offsets
offsets               f16 | int8   (rows, groups), only float offsets
row_offsets           f16          (rows,), only float offsets with 8-bit scales
column_order          int32        (cols,): stored column k is column column_order[k] of the weight
====================  ===========  ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tailorbird.formats.grid import Grid
from tailorbird.formats.packed import ROW_CHUNK, WEIGHTS, Layout, PackedWeight, check_order, checked, repeated
from tailorbird.formats.spec import PlaneSpec
from tailorbird.kernels.matrix import PackedMatrix, fits
from tailorbird.kernels.reference import pack_bits, unpack_bits
from tailorbird.kernels.triton_matrix import TritonMatrix


@dataclass(frozen=True)
class BitPlanes(PackedWeight):
    """One packed weight of shape (rows, cols); see the module for its arrays."""

    spec: PlaneSpec

    @classmethod
    def pack(cls, codes: Tensor, grid: Grid, spec: PlaneSpec, column_order: Tensor | None = None) -> BitPlanes:
        """Pack codes and their grid.

        Args:
            codes: uint8 (rows, cols), in stored column order.
            grid: scales and offsets as stored.
            spec: the format.
            column_order: int32 (cols,), when the spec says so.
        """
        arrays = {"planes": _pack_chunked(codes, spec)} | dict(grid.arrays)
        if spec.column_order:
            assert column_order is not None
            arrays["column_order"] = column_order.to(torch.int32)
        return cls(codes.shape[0], spec, arrays)

    @classmethod
    def plan(cls, rows: int, spec: PlaneSpec) -> BitPlanes:
        """The same arrays on the meta device: shapes and bytes from the real packer, which packs one row; no memory."""
        return _planned(rows, spec)

    @classmethod
    def from_arrays(cls, rows: int, spec: PlaneSpec, arrays: Mapping[str, Tensor]) -> BitPlanes:
        """Check arrays read from outside against what the format needs.

        Raises:
            ArtifactError: an array is missing, too many, or of another shape or dtype; a column order is no
                permutation.
        """
        found = checked(cls.plan(rows, spec).arrays, arrays)
        if spec.column_order:
            check_order(found["column_order"])
        return cls(rows, spec, found)

    def fits(self, layout: Layout) -> bool:
        """The native kernels can't hold very long groups."""
        return layout is TritonMatrix or fits(self.spec.group_size, self.spec.cols)

    def lay_out(self, layout: Layout) -> PackedMatrix | TritonMatrix:
        """Laid out for kernels."""
        return layout.from_arrays(self.rows, self.spec.bits, self.spec.group_size, self.arrays)

    def meaning(self) -> Iterator[Tensor]:
        """Codes, a few rows at a time: unpacking takes several times their memory; then scales and offsets."""
        for start in range(0, self.rows, ROW_CHUNK):
            yield self.codes(start, start + ROW_CHUNK)
        yield from Grid(self.spec, self.arrays).values()

    def codes(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Codes of rows start..stop, uint8 (n, cols), in stored column order."""
        packed = self.arrays["planes"][start:stop]
        return _unpack_rows(packed, self.spec)

    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols), in the weight's own column order."""
        arrays = {name: array if name == "column_order" else array[index] for name, array in self.arrays.items()}
        scale, offset = Grid(self.spec, arrays).values()
        codes = _unpack_rows(arrays["planes"], self.spec)
        n, groups = scale.shape
        grouped = codes.view(n, groups, self.spec.group_size).float()
        # Two roundings as the definition has them; addcmul fuses them or not, depending on shapes and processor.
        weight = grouped.mul_(scale[:, :, None]).add_(offset[:, :, None]).view(n, self.spec.cols)
        if self.spec.column_order:
            weight = torch.empty_like(weight).index_copy_(1, arrays["column_order"].long(), weight)
        return weight


WEIGHTS[PlaneSpec.kind] = BitPlanes


@lru_cache(maxsize=4096)
def _planned(rows: int, spec: PlaneSpec) -> BitPlanes:
    # Cached: a model has few shapes and many parts, and an allocation asks for each at every number of bits.
    codes, scale = torch.zeros(1, spec.cols, dtype=torch.uint8), torch.ones(1, len(spec.bits))
    row = BitPlanes.pack(codes, Grid.store(scale, scale, spec), spec, torch.arange(spec.cols, dtype=torch.int32))
    return BitPlanes(rows, spec, repeated(row.arrays, rows, whole=("column_order",)))


def _pack_rows(codes: Tensor, spec: PlaneSpec) -> Tensor:
    if len(set(spec.bits)) == 1:
        return pack_bits(codes, spec.bits[0])
    grouped = codes.view(codes.shape[0], len(spec.bits), spec.group_size)
    runs = [pack_bits(grouped[:, groups].flatten(1), bits) for bits, groups in spec.runs]
    return torch.cat(runs, dim=1)


def _unpack_rows(packed: Tensor, spec: PlaneSpec) -> Tensor:
    if len(set(spec.bits)) == 1:
        return unpack_bits(packed, spec.bits[0], spec.cols).contiguous()
    out = torch.empty(packed.shape[0], len(spec.bits), spec.group_size, dtype=torch.uint8, device=packed.device)
    start = 0
    for bits, groups in spec.runs:
        n = len(groups) * spec.group_size
        width = bits * -(-n // 8)
        codes = unpack_bits(packed[:, start : start + width], bits, n)
        out[:, groups] = codes.reshape(len(packed), len(groups), spec.group_size)
        start += width
    return out.view(packed.shape[0], spec.cols)


def _pack_chunked(codes: Tensor, spec: PlaneSpec) -> Tensor:
    """Pack a few rows at a time: the temporaries of a 262,144-row embedding would be gigabytes."""
    parts = [_pack_rows(codes[a : a + ROW_CHUNK], spec) for a in range(0, codes.shape[0], ROW_CHUNK)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
