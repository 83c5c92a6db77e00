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

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tailorbird.errors import ArtifactError
from tailorbird.formats.grid import Grid
from tailorbird.formats.spec import PlaneSpec
from tailorbird.kernels.reference import pack_bits, unpack_bits

ROW_CHUNK = 1024


@dataclass(frozen=True)
class BitPlanes:
    """One packed weight of shape (rows, cols); see the module for its arrays."""

    rows: int
    spec: PlaneSpec
    arrays: Mapping[str, Tensor]

    @classmethod
    def pack(cls, codes: Tensor, grid: Grid, spec: PlaneSpec, column_order: Tensor | None = None) -> BitPlanes:
        """Pack codes and their grid.

        Args:
            codes: uint8 (rows, cols), in stored column order; meta tensors give the sizes without the bytes.
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
        """The same arrays on the meta device: shapes and bytes from the real packer, no memory."""
        return _planned(rows, spec)

    @classmethod
    def from_arrays(cls, rows: int, spec: PlaneSpec, arrays: Mapping[str, Tensor]) -> BitPlanes:
        """Check arrays read from outside against what the format needs.

        Raises:
            ArtifactError: an array is missing, too many, or of another shape or dtype; a column order is no
                permutation.
        """
        wanted = cls.plan(rows, spec).arrays
        if set(wanted) != set(arrays):
            raise ArtifactError(
                f"a packed weight needs {sorted(wanted)}, found {sorted(arrays)}", hint="fetch it again"
            )
        for name, want in wanted.items():
            got = arrays[name]
            if got.shape != want.shape or got.dtype != want.dtype:
                raise ArtifactError(
                    f"{name} is {got.dtype} {tuple(got.shape)}, the plan says {want.dtype} {tuple(want.shape)}",
                    hint="the artifact is damaged: fetch or make it again",
                )
        if spec.column_order:
            order = arrays["column_order"].sort().values
            if not torch.equal(order, torch.arange(spec.cols, dtype=torch.int32, device=order.device)):
                raise ArtifactError("column_order is not a permutation", hint="the artifact is damaged: fetch it again")
        return cls(rows, spec, dict(arrays))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.spec.cols

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self.arrays["planes"].device

    def to(self, device: torch.device) -> BitPlanes:
        """The same arrays on another device."""
        return BitPlanes(self.rows, self.spec, {name: array.to(device) for name, array in self.arrays.items()})

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.numel() * a.element_size() for a in self.arrays.values())

    def codes(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Codes of rows start..stop, uint8 (n, cols), in stored column order."""
        packed = self.arrays["planes"][start:stop]
        return _unpack_rows(packed, self.spec)

    def dequantize(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop as float32 (n, cols), in the weight's own column order."""
        stop = self.rows if stop is None else min(stop, self.rows)
        out = torch.empty(stop - start, self.spec.cols, device=self.device)
        for low in range(start, stop, ROW_CHUNK):
            high = min(low + ROW_CHUNK, stop)
            out[low - start : high - start] = self._rows(slice(low, high))
        return out

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index: float32 (\\*ids.shape, cols); what an embedding look-up reads."""
        return self._rows(ids.reshape(-1)).reshape(*ids.shape, self.spec.cols)

    def matmul(self, x: Tensor) -> Tensor:
        """``x @ W.T`` for x of shape (..., cols): the reference; weights are unpacked a few rows at a time.

        Returns:
            float32 or x's dtype, shape (..., rows).
        """
        chunks = range(0, self.rows, ROW_CHUNK)
        parts = [torch.nn.functional.linear(x, self._rows(slice(a, a + ROW_CHUNK)).to(x.dtype)) for a in chunks]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _rows(self, index: slice | Tensor) -> Tensor:
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


@lru_cache(maxsize=4096)
def _planned(rows: int, spec: PlaneSpec) -> BitPlanes:
    # Cached: a model has few shapes and many parts, and an allocation asks for each at every number of bits.
    codes = torch.empty(rows, spec.cols, dtype=torch.uint8, device="meta")
    scale = torch.empty(rows, len(spec.bits), device="meta")
    order = torch.empty(spec.cols, dtype=torch.int32, device="meta")
    return BitPlanes.pack(codes, Grid.store(scale, scale, spec), spec, order)


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
    step = codes.shape[0] if codes.is_meta else ROW_CHUNK
    parts = [_pack_rows(codes[a : a + step], spec) for a in range(0, codes.shape[0], step)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
