"""`TrellisCodes`: rows that are paths through a trellis, ``w = code * scale``, scale by row and group.

What a code is says `kernels.trellis`: a column adds 1 to 4 bits to the row's string, or every other column one more,
and reads more than it adds, so that neighbours share bits: few bits choose among many values.

Stored arrays:

==============  =========================  ==================================================================
name            dtype                      shape and meaning
==============  =========================  ==================================================================
stream          uint8                      (rows, bytes): the strings of bits, lowest first
scales          uint8 or float16           (rows, groups)
row_scales      float16                    (rows,): only with ``u8`` scales: scale = row_scale * code
==============  =========================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.formats.grid import Grid, scale_values
from tailorbird.formats.packed import ROW_CHUNK, Fetch, Layout, PackedWeight, checked, fetched, repeated
from tailorbird.formats.spec import MAX_BITS, PlaneSpec, Scale
from tailorbird.kernels.matrix import PackedMatrix, fits
from tailorbird.kernels.trellis import MAX_HALVES, MIN_HALVES, UNIT, TrellisMatrix, codes, row_bytes

# Goes up when the tables change, as the same bits then mean another weight.
GENERATION = 2


@dataclass(frozen=True)
class TrellisSpec:
    """The format of one weight whose rows are paths.

    Attributes:
        halves: half bits a column of every group, 2 to 8, in the order of the columns.
        group_size: columns in a group, a multiple of 16.
        scale: ``u8``: 8 bits a group under a half a row; ``fp16``: a half a group.
    """

    kind: ClassVar[str] = "trellis"

    halves: tuple[int, ...]
    group_size: int
    scale: Scale = "u8"

    def __post_init__(self) -> None:
        """Refuse what the format can't hold."""
        if not self.halves or any(type(h) is not int or not MIN_HALVES <= h <= MAX_HALVES for h in self.halves):
            raise UsageError("a trellis has 1 to 4 bits a column, in halves", hint="edit the plan")
        if type(self.group_size) is not int or self.group_size < 1 or self.group_size % UNIT:
            raise UsageError(f"groups of {self.group_size} columns in a trellis", hint="a multiple of 16")
        if self.scale not in ("fp16", "u8"):
            raise UsageError(f"unknown scale {self.scale!r}", hint="fp16 or u8")

    @classmethod
    def uniform(cls, halves: int, cols: int, group_size: int, scale: Scale = "u8") -> TrellisSpec:
        """The same bits everywhere.

        Raises:
            UsageError: the group size does not divide the row.
        """
        if group_size < 1 or cols % group_size:
            raise UsageError(f"groups of {group_size} in a row of {cols}", hint="choose a divisor of the row")
        return cls((halves,) * (cols // group_size), group_size, scale)

    @property
    def grid(self) -> PlaneSpec:
        """How scales are stored: as those of symmetric codes."""
        return PlaneSpec((MAX_BITS,) * len(self.halves), self.group_size, "none", self.scale)

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        return len(self.halves) * self.group_size

    @property
    def mean_bits(self) -> float:
        """Bits of a column."""
        return sum(self.halves) / len(self.halves) / 2

    @property
    def mixed(self) -> bool:
        """Groups differ in their bits."""
        return len(set(self.halves)) > 1

    @property
    def label(self) -> str:
        """The format in a few words."""
        low, high = min(self.halves) / 2, max(self.halves) / 2
        bits = f"{low:g} bits" if low == high else f"{low:g} to {high:g} bits mixed"
        groups = "rows" if len(self.halves) == 1 else f"groups of {self.group_size}"
        return f"a trellis of {bits}, {groups}, {self.scale} scales"

    @property
    def affine(self) -> PlaneSpec:
        """A code is one of many values: affine ones need about two bits more to lose little by it."""
        bits = min(MAX_BITS, (max(self.halves) + 1) // 2 + 2)
        return PlaneSpec.uniform(bits, self.cols, self.group_size, "integer", self.scale)

    def plan(self, rows: int) -> TrellisCodes:
        """Arrays on the meta device."""
        return _planned(rows, self)

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> TrellisCodes:
        """Check arrays read from outside; any string of bits is a path."""
        return TrellisCodes(rows, self, checked(self.plan(rows).arrays, arrays))

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Some rows; all is stored by row."""
        return fetched(self, rows, start, stop, fetch)

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json; half bits are one number, or a digit for every group."""
        same = len(set(self.halves)) == 1
        halves: int | str = self.halves[0] if same else "".join(map(str, self.halves))
        plain = {"half_bits": halves, "group_size": self.group_size, "scale": self.scale}
        return {"kind": self.kind, "tables": GENERATION} | plain

    @staticmethod
    def groups_in(data: Mapping[str, Any], cols: int) -> int:
        """As of planes."""
        return PlaneSpec.groups_in(data, cols)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], cols: int) -> TrellisSpec:
        """Read `to_json` back for a row of `cols` columns.

        Raises:
            UsageError: unknown keys, or values the format can't hold.
        """
        if data.get("tables") != GENERATION:
            raise UsageError(
                f"a trellis with tables of another version: {str(data.get('tables'))[:20]}",
                hint=f"this version of tailorbird has tables {GENERATION}: compress the model anew",
            )
        if set(data) != {"tables", "half_bits", "group_size", "scale"}:
            raise UsageError(f"not a trellis: {str(dict(data))[:100]}", hint="needs half_bits, group_size, scale")
        size, halves = data["group_size"], data["half_bits"]
        if type(size) is not int or size < 1 or cols % size:
            raise UsageError(f"group size {size!r} does not divide a row of {cols}", hint="choose a divisor of the row")
        if isinstance(halves, str):
            if len(halves) != cols // size or not halves.isascii() or not halves.isdigit():
                raise UsageError(f"half_bits must have a digit for each of {cols // size} groups", hint="edit the plan")
            return cls(tuple(int(h) for h in halves), size, data["scale"])
        return cls((halves,) * (cols // size), size, data["scale"])


@dataclass(frozen=True)
class TrellisCodes(PackedWeight):
    """One packed weight whose rows are paths; see the module for its arrays."""

    spec: TrellisSpec

    @classmethod
    def pack(cls, stream: Tensor, grid: Grid, spec: TrellisSpec) -> TrellisCodes:
        """Put strings of bits, uint8 (rows, bytes), and scales together."""
        return cls(len(stream), spec, {"stream": stream} | dict(grid.arrays))

    def meaning(self) -> Iterator[Tensor]:
        """Codes, a few rows at a time, and scales: what the same bits mean depends on the spec."""
        yield from spelled(self.arrays["stream"], self.spec)
        yield scale_values(self.arrays)

    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols)."""
        arrays = {name: array[index] for name, array in self.arrays.items()}
        found = codes(arrays["stream"], self.spec.halves, self.spec.group_size).float()
        return found.mul_(scale_values(arrays).repeat_interleave(self.spec.group_size, 1))

    def fits(self, layout: Layout) -> bool:
        """There are native kernels, for groups that are not very long; none for GPUs."""
        return layout is PackedMatrix and fits(self.spec.group_size, self.spec.cols)

    def lay_out(self, layout: Layout) -> PackedMatrix:
        """Laid out for kernels."""
        arrays = {name: array.contiguous() for name, array in self.arrays.items()}
        return TrellisMatrix.from_stream(self.spec.halves, self.spec.group_size, arrays)


def spelled(stream: Tensor, spec: TrellisSpec) -> Iterator[Tensor]:
    """Codes of strings of bits, int8 (n, cols), a few rows at a time."""
    for rows in torch.split(stream, ROW_CHUNK):
        yield codes(rows, spec.halves, spec.group_size)


@lru_cache(maxsize=4096)
def _planned(rows: int, spec: TrellisSpec) -> TrellisCodes:
    stream = torch.zeros(1, row_bytes(spec.halves, spec.group_size), dtype=torch.uint8)
    scale = torch.ones(1, len(spec.halves))
    row = TrellisCodes.pack(stream, Grid.store(scale, scale, spec.grid), spec)
    return TrellisCodes(rows, spec, repeated(row.arrays, rows))
