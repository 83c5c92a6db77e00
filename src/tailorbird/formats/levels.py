"""`LevelCodes`: codes that look a level up, ``w = level[code] * scale``, scale by row and group.

The levels are those of NormalFloat (Dettmers et al., arXiv 2305.14314), for which the file has nothing but the name,
or any other table of ``2**bits`` numbers, which is stored with the weight. There is no kernel for this format: it is
small on disk and in memory, and a product unpacks it a few rows at a time.

Stored arrays: `planes`, `scales` and `row_scales` as in `BitPlanes`, and a stored table as `levels`, float32
(2**bits,).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.grid import scale_values
from tailorbird.formats.packed import ROW_CHUNK, Fetch, PackedWeight, checked, fetched
from tailorbird.formats.spec import MAX_BITS, PlaneSpec, Scale

Table = Literal["normal", "stored"]
_LEVELS = "levels"
# The outermost quantile of NormalFloat lies between those of a table of 15 and of one of 16 equal shares:
# 1 - (1/15 + 1/16) / 4.
_OUTERMOST = 0.9677083333333333


@lru_cache(maxsize=8)
def normal_levels(bits: int) -> Tensor:
    """NormalFloat of `bits` bits: quantiles of the normal distribution, zero among them, within -1..1; float32.

    For 4 bits these are the published 16 numbers; for others the same construction.
    """
    half = 2 ** (bits - 1)
    above = torch.special.ndtri(torch.linspace(0.5, _OUTERMOST, half + 1, dtype=torch.float64))
    below = -torch.special.ndtri(torch.linspace(_OUTERMOST, 0.5, half, dtype=torch.float64))
    # Both ends are the same quantile, which becomes one.
    levels: Tensor = torch.cat([below, above[1:]]) / above[-1]
    levels[half - 1] = 0.0
    return levels.float()


@dataclass(frozen=True)
class LevelSpec:
    """The format of one weight whose codes look up levels.

    Attributes:
        bits: of a code, at least 2.
        groups: of a row.
        group_size: columns in a group.
        table: ``normal`` or ``stored``.
        scale: ``u8``: 8 bits a group under a half a row; ``fp16``: a half a group.
    """

    kind: ClassVar[str] = "levels"

    bits: int
    groups: int
    group_size: int
    table: Table = "normal"
    scale: Scale = "u8"

    def __post_init__(self) -> None:
        """Refuse what the format can't hold."""
        numbers = (self.bits, self.groups, self.group_size)
        if any(type(n) is not int or n < 1 for n in numbers) or not 2 <= self.bits <= MAX_BITS:
            raise UsageError(f"levels of {self.bits} bits in groups of {self.group_size}", hint="2 to 8 bits")
        if self.table not in ("normal", "stored") or self.scale not in ("fp16", "u8"):
            raise UsageError(f"unknown table {self.table!r} or scale {self.scale!r}", hint="edit the plan")

    @property
    def codes(self) -> PlaneSpec:
        """How codes and scales are stored."""
        return PlaneSpec((self.bits,) * self.groups, self.group_size, "none", self.scale)

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        return self.groups * self.group_size

    @property
    def mean_bits(self) -> float:
        """Bits of a code."""
        return float(self.bits)

    @property
    def label(self) -> str:
        """The format in a few words."""
        groups = "rows" if self.groups == 1 else f"groups of {self.group_size}"
        name = "NormalFloat" if self.table == "normal" else "stored levels"
        return f"{name} of {self.bits} bits, {groups}, {self.scale} scales"

    @property
    def affine(self) -> PlaneSpec:
        """Levels that are not evenly spaced need about two bits more to be met by such as are."""
        return PlaneSpec.uniform(min(MAX_BITS, self.bits + 2), self.cols, self.group_size, "integer", self.scale)

    def plan(self, rows: int) -> LevelCodes:
        """Arrays on the meta device."""
        return _planned(rows, self)

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> LevelCodes:
        """Check arrays read from outside."""
        return LevelCodes(rows, self, checked(self.plan(rows).arrays, arrays))

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Some rows; all but a table is stored by row."""
        return fetched(self, rows, start, stop, fetch, (_LEVELS,))

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json."""
        keys = ("bits", "group_size", "table", "scale")
        return {"kind": self.kind} | {key: getattr(self, key) for key in keys}

    @staticmethod
    def groups_in(data: Mapping[str, Any], cols: int) -> int:
        """As of planes."""
        return PlaneSpec.groups_in(data, cols)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], cols: int) -> LevelSpec:
        """Read `to_json` back for a row of `cols` columns.

        Raises:
            UsageError: unknown keys, or values the format can't hold.
        """
        if set(data) != {"bits", "group_size", "table", "scale"}:
            raise UsageError(f"not a format of levels: {dict(data)}", hint="needs bits, group_size, table, scale")
        size = data["group_size"]
        if type(size) is not int or size < 1 or cols % size:
            raise UsageError(f"group size {size!r} does not divide a row of {cols}", hint="choose a divisor of the row")
        return cls(data["bits"], cols // size, size, data["table"], data["scale"])


@dataclass(frozen=True)
class LevelCodes(PackedWeight):
    """One packed weight whose codes look up levels."""

    spec: LevelSpec

    @classmethod
    def pack(cls, codes: BitPlanes, spec: LevelSpec, levels: Tensor | None = None) -> LevelCodes:
        """Codes and scales as `spec.codes` has them, with float32 levels (2**bits,) where they are stored."""
        arrays = dict(codes.arrays)
        if spec.table == "stored":
            assert levels is not None
            arrays[_LEVELS] = levels
        return cls(codes.rows, spec, arrays)

    @property
    def levels(self) -> Tensor:
        """float32 (2**bits,)."""
        return self.arrays[_LEVELS] if self.spec.table == "stored" else normal_levels(self.spec.bits)

    def meaning(self) -> Iterator[Tensor]:
        """Codes, a few rows at a time, scales and levels."""
        packed = BitPlanes(self.rows, self.spec.codes, self.arrays)
        for start in range(0, self.rows, ROW_CHUNK):
            yield packed.codes(start, start + ROW_CHUNK)
        yield from (scale_values(self.arrays), self.levels)

    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols)."""
        arrays = {name: array if name == _LEVELS else array[index] for name, array in self.arrays.items()}
        packed = BitPlanes(len(arrays["scales"]), self.spec.codes, arrays)
        values = self.levels.to(self.device)[packed.codes().long()]
        scale = scale_values(arrays).repeat_interleave(self.spec.group_size, 1)
        return values.mul_(scale)


@lru_cache(maxsize=4096)
def _planned(rows: int, spec: LevelSpec) -> LevelCodes:
    levels = torch.empty(2**spec.bits, device="meta")
    return LevelCodes.pack(BitPlanes.plan(rows, spec.codes), spec, levels)
