"""What a packed weight looks like, without the weight: bits by group, group size, and how scales and offsets are
kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.formats.packed import WEIGHTS, Fetch, PackedWeight, fetched

Offset = Literal["none", "integer", "float"]
Scale = Literal["fp16", "u8"]
MAX_BITS = 8


@dataclass(frozen=True)
class PlaneSpec:
    """The format of one weight of shape (rows, cols): ``w = code * scale + offset`` by row and group.

    Attributes:
        bits: code bits of each group of columns, in the order of the columns; groups of equal bits are stored together.
        group_size: columns in a group; it divides the row.
        offset: ``none``: symmetric, -scale * 2**(bits-1), for one bit -scale / 2; ``integer``: -scale * zero with
            a zero point of `bits` bits (one-bit groups stay symmetric); ``float``: its own number.
        scale: ``fp16``: a half a group; ``u8``: 8 bits a group times a half a row (and likewise for float offsets).
        column_order: a permutation of the columns is stored (act-order without static groups).
    """

    kind: ClassVar[str] = "planes"

    bits: tuple[int, ...]
    group_size: int
    offset: Offset = "integer"
    scale: Scale = "u8"
    column_order: bool = False

    def __post_init__(self) -> None:
        """Refuse what the format can't hold."""
        if not self.bits or any(type(b) is not int or not 1 <= b <= MAX_BITS for b in self.bits):
            raise UsageError(f"bits must be 1 to {MAX_BITS} for every group, got {self.bits}", hint="edit the plan")
        if type(self.group_size) is not int or self.group_size < 1:
            raise UsageError(f"group size must be a positive integer, got {self.group_size}", hint="edit the plan")
        if self.offset not in ("none", "integer", "float") or self.scale not in ("fp16", "u8"):
            raise UsageError(f"unknown offset {self.offset!r} or scale {self.scale!r}", hint="edit the plan")

    @classmethod
    def uniform(
        cls, bits: int, cols: int, group_size: int, offset: Offset = "integer", scale: Scale = "u8"
    ) -> PlaneSpec:
        """The same bits for every group of a row of `cols` columns.

        Raises:
            UsageError: the group size does not divide the row.
        """
        if group_size < 1 or cols % group_size:
            raise UsageError(
                f"group size {group_size} does not divide a row of {cols}", hint="choose a divisor of the row"
            )
        return cls((bits,) * (cols // group_size), group_size, offset, scale)

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        return len(self.bits) * self.group_size

    @property
    def order(self) -> list[int]:
        """Stored order of the groups: by bits, then by column."""
        return sorted(range(len(self.bits)), key=lambda g: self.bits[g])

    @property
    def runs(self) -> list[tuple[int, list[int]]]:
        """(bits, groups) for every bit-width that occurs, in stored order."""
        return [(b, [g for g in range(len(self.bits)) if self.bits[g] == b]) for b in sorted(set(self.bits))]

    @property
    def mean_bits(self) -> float:
        """Average code bits, without scales and offsets."""
        return sum(self.bits) / len(self.bits)

    @property
    def mixed(self) -> bool:
        """Groups differ in their bits."""
        return len(set(self.bits)) > 1

    @property
    def affine(self) -> PlaneSpec:
        """Itself."""
        return self

    @property
    def label(self) -> str:
        """The format in a few words."""
        low, high = min(self.bits), max(self.bits)
        bits = f"{low} bits" if low == high else f"{low} to {high} bits mixed"
        groups = "rows" if self.group_size == self.cols else f"groups of {self.group_size}"
        offset = {"none": "symmetric", "integer": "zero points", "float": "float offsets"}[self.offset]
        order = ", column order" if self.column_order else ""
        return f"{bits}, {groups}, {offset}, {self.scale} scales{order}"

    def plan(self, rows: int) -> PackedWeight:
        """`BitPlanes.plan`."""
        return WEIGHTS[self.kind].plan(rows, self)

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> PackedWeight:
        """`BitPlanes.from_arrays`."""
        return WEIGHTS[self.kind].from_arrays(rows, self, arrays)

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Some rows; all but the column order is stored by row."""
        return fetched(self, rows, start, stop, fetch, ("column_order",))

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json; bits are one number, or a digit for every group."""
        same = len(set(self.bits)) == 1
        bits: int | str = self.bits[0] if same else "".join(map(str, self.bits))
        data: dict[str, Any] = {
            "bits": bits,
            "group_size": self.group_size,
            "offset": self.offset,
            "scale": self.scale,
        }
        return data | ({"column_order": True} if self.column_order else {})

    @staticmethod
    def groups_in(data: Mapping[str, Any], cols: int) -> int:
        """Groups that `from_json` would make; none is made."""
        return -(-cols // max(1, int(data["group_size"])))

    @classmethod
    def from_json(cls, data: Mapping[str, Any], cols: int) -> PlaneSpec:
        """Read `to_json` back for a row of `cols` columns.

        Raises:
            UsageError: unknown keys, or values the format can't hold.
        """
        if set(data) - {"bits", "group_size", "offset", "scale", "column_order"} or "bits" not in data:
            raise UsageError(f"not a format: {dict(data)}", hint="needs bits, group_size, offset, scale")
        size, bits = data.get("group_size"), data["bits"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 1 or cols % size:
            raise UsageError(f"group size {size!r} does not divide a row of {cols}", hint="choose a divisor of the row")
        if isinstance(bits, str):
            if len(bits) != cols // size or not bits.isascii() or not bits.isdigit():
                raise UsageError(f"bits must have a digit for each of {cols // size} groups", hint="edit the plan")
            groups = tuple(int(b) for b in bits)
        else:
            groups = (bits,) * (cols // size)
        rest = {key: data[key] for key in ("offset", "scale", "column_order") if key in data}
        if not isinstance(rest.get("column_order", False), bool):
            raise UsageError("column_order must be true or false", hint="edit the plan")
        return cls(groups, size, **rest)
