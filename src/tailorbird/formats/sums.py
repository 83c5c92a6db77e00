"""`PlaneSum`: a weight that is a sum of affine planes, ``w = sum over terms of code * scale + offset``.

With terms of one symmetric bit each plane has scales of its own: two of them are the residual binary of BiLLM, or,
where a mask picks one of two magnitudes, its split binary; three or more are free planes. A term may cover some groups
of columns only, so that groups differ in how many planes they have. A term of eight bits and one of a few more that
divides its steps are codes of more than eight bits (`SumSpec.finer`).

Stored arrays: those of every term's `BitPlanes`, with ``_0``, ``_1`` and so on after their names, and ``column_order``
once for all. Values are added in the order of the terms, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.packed import Fetch, Layout, PackedWeight, check_order, checked, fetched
from tailorbird.formats.spec import MAX_BITS, PlaneSpec
from tailorbird.kernels.matrix import PackedMatrix, StoredTerm, fits
from tailorbird.kernels.triton_matrix import TritonMatrix

MAX_TERMS = 8
_ORDER = "column_order"


@dataclass(frozen=True)
class Term:
    """One summand.

    Attributes:
        spec: the format of the groups it covers, one after the other, without a column order.
        over: whether it covers a group, for every group of the weight.
    """

    spec: PlaneSpec
    over: tuple[bool, ...]

    @classmethod
    def whole(cls, spec: PlaneSpec) -> Term:
        """A term that covers all groups."""
        return cls(spec, (True,) * len(spec.bits))

    @property
    def groups(self) -> list[int]:
        """The groups it covers."""
        return [group for group, covered in enumerate(self.over) if covered]


@dataclass(frozen=True)
class SumSpec:
    """The format of one weight that is a sum of planes.

    Attributes:
        terms: the summands, all with groups of one size.
        column_order: a permutation of the columns is stored.
    """

    kind: ClassVar[str] = "sum"

    terms: tuple[Term, ...]
    column_order: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not add up."""
        if not 1 <= len(self.terms) <= MAX_TERMS:
            raise UsageError(f"a sum has 1 to {MAX_TERMS} terms, not {len(self.terms)}", hint="edit the plan")
        if len({(term.spec.group_size, len(term.over)) for term in self.terms}) > 1:
            raise UsageError("the terms of a sum differ in their groups", hint="give all one group size")
        if any(len(term.groups) != len(term.spec.bits) or term.spec.column_order for term in self.terms):
            raise UsageError("a term needs bits for every group it covers, and no order", hint="edit the plan")

    @classmethod
    def free(cls, planes: tuple[int, ...], group_size: int, scale: str = "u8", column_order: bool = False) -> SumSpec:
        """One-bit symmetric planes with scales of their own; `planes` says how many each group has."""
        terms = []
        for p in range(max(planes)):
            over = tuple(count > p for count in planes)
            terms.append(Term(PlaneSpec((1,) * sum(over), group_size, "none", scale), over))  # type: ignore[arg-type]
        return cls(tuple(terms), column_order)

    @classmethod
    def finer(cls, base: PlaneSpec, more: Sequence[int]) -> SumSpec:
        """Planes of eight bits whose steps a second, symmetric term divides.

        Args:
            base: the planes; a column order is left out.
            more: bits of the second term in each group, 0 for none.
        """
        over, bits = tuple(map(bool, more)), tuple(b for b in more if b)
        rest = Term(PlaneSpec(bits, base.group_size, "none", base.scale), over)
        return cls((Term.whole(replace(base, column_order=False)), rest))

    @property
    def more(self) -> tuple[int, ...]:
        """Bits above eight in each group of a `finer` format; none for any other sum."""
        if len(self.terms) != 2 or self.column_order or set(self.terms[0].spec.bits) != {MAX_BITS}:
            return ()
        over, rest = self.terms[1].over, iter(self.terms[1].spec.bits)
        return tuple(next(rest) if covered else 0 for covered in over) if self.terms[1].spec.offset == "none" else ()

    @property
    def group_size(self) -> int:
        """Columns in a group."""
        return self.terms[0].spec.group_size

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return len(self.terms[0].over)

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        return self.groups * self.group_size

    @property
    def mean_bits(self) -> float:
        """Average code bits of all terms together."""
        return sum(sum(term.spec.bits) for term in self.terms) / self.groups

    @property
    def label(self) -> str:
        """The format in a few words."""
        widths = "+".join(f"{term.spec.mean_bits * len(term.groups) / self.groups:.3g}" for term in self.terms)
        groups = "rows" if self.groups == 1 else f"groups of {self.group_size}"
        order = ", column order" if self.column_order else ""
        return f"a sum of {widths} bits, {groups}, {self.terms[0].spec.scale} scales{order}"

    @property
    def affine(self) -> PlaneSpec:
        """Levels that are not evenly spaced need about two bits more to be met by such as are."""
        bits = min(MAX_BITS, sum(max(term.spec.bits) for term in self.terms) + 2 * (len(self.terms) > 1))
        return PlaneSpec.uniform(bits, self.cols, self.group_size, "integer", self.terms[0].spec.scale)

    def plan(self, rows: int) -> PlaneSum:
        """Arrays on the meta device."""
        return _planned(rows, self)

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> PlaneSum:
        """Check arrays read from outside."""
        found = checked(self.plan(rows).arrays, arrays)
        if self.column_order:
            check_order(found[_ORDER])
        return PlaneSum(rows, self, found)

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Some rows; all but the column order is stored by row."""
        return fetched(self, rows, start, stop, fetch, (_ORDER,))

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json; a term that does not cover every group has a digit 1 for those it does."""
        terms = []
        for term in self.terms:
            over = {} if all(term.over) else {"over": "".join("01"[covered] for covered in term.over)}
            terms.append(term.spec.to_json() | over)
        return {"kind": self.kind, "terms": terms} | ({_ORDER: True} if self.column_order else {})

    @staticmethod
    def groups_in(data: Mapping[str, Any], cols: int) -> int:
        """Groups of all terms together."""
        if len(data["terms"]) > MAX_TERMS:
            raise UsageError(f"a sum has at most {MAX_TERMS} terms", hint="edit the plan")
        return sum(PlaneSpec.groups_in(term, cols) for term in data["terms"])

    @classmethod
    def from_json(cls, data: Mapping[str, Any], cols: int) -> SumSpec:
        """Read `to_json` back for a row of `cols` columns.

        Raises:
            UsageError: unknown keys, or values the format can't hold.
        """
        terms, order = data.get("terms"), data.get(_ORDER, False)
        if set(data) - {"terms", _ORDER} or not isinstance(terms, list) or not isinstance(order, bool):
            raise UsageError("a sum has terms and, where columns are reordered, column_order", hint="edit the plan")
        return cls(tuple(_term(term, cols) for term in terms), order)


def _term(data: Any, cols: int) -> Term:
    if not isinstance(data, dict):
        raise UsageError(f"not a term: {str(data)[:100]}", hint="needs bits, group_size, offset, scale")
    own = {key: value for key, value in data.items() if key != "over"}
    if "over" not in data:
        return Term.whole(PlaneSpec.from_json(own, cols))
    over, size = data["over"], data.get("group_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 or cols % size:
        raise UsageError(f"group size {size!r} does not divide a row of {cols}", hint="choose a divisor of the row")
    if not isinstance(over, str) or set(over) - {"0", "1"} or len(over) != cols // size or "1" not in over:
        raise UsageError(f"over must have a digit 0 or 1 for each of {cols // size} groups", hint="edit the plan")
    return Term(PlaneSpec.from_json(own, over.count("1") * size), tuple(digit == "1" for digit in over))


@dataclass(frozen=True)
class PlaneSum(PackedWeight):
    """One packed weight that is a sum of planes."""

    spec: SumSpec

    @classmethod
    def pack(cls, terms: list[BitPlanes], spec: SumSpec, column_order: Tensor | None = None) -> PlaneSum:
        """Put packed terms together, each over the groups it covers; column_order is int32 (cols,)."""
        arrays = {f"{name}_{k}": array for k, term in enumerate(terms) for name, array in term.arrays.items()}
        if spec.column_order:
            assert column_order is not None
            arrays[_ORDER] = column_order.to(torch.int32)
        return cls(terms[0].rows, spec, arrays)

    def terms(self) -> list[BitPlanes]:
        """The packed terms."""
        found = []
        for k, term in enumerate(self.spec.terms):
            names = {name.removesuffix(f"_{k}"): name for name in self.arrays if name.endswith(f"_{k}")}
            found.append(BitPlanes(self.rows, term.spec, {own: self.arrays[name] for own, name in names.items()}))
        return found

    def meaning(self) -> Iterator[Tensor]:
        """Codes, scales and offsets of one term after the other."""
        for term in self.terms():
            yield from term.meaning()

    def fits(self, layout: Layout) -> bool:
        """As a single term."""
        return layout is TritonMatrix or fits(self.spec.group_size, self.spec.cols)

    def lay_out(self, layout: Layout) -> PackedMatrix | TritonMatrix:
        """Laid out for kernels, which add up runs over the same columns."""
        terms = [StoredTerm(term.spec.bits, term.groups, f"_{k}") for k, term in enumerate(self.spec.terms)]
        return layout.from_terms(self.rows, self.spec.groups, self.spec.group_size, terms, self.arrays)

    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols), in the weight's own column order."""
        out: Tensor | None = None
        for term, packed in zip(self.spec.terms, self.terms(), strict=True):
            values = packed.unpacked(index).view(-1, len(term.groups), self.spec.group_size)
            if out is None:
                out = values.new_zeros(len(values), self.spec.groups, self.spec.group_size)
            if all(term.over):
                out += values
            else:
                out[:, term.groups] += values
        assert out is not None
        weight = out.flatten(1)
        if self.spec.column_order:
            weight = torch.empty_like(weight).index_copy_(1, self.arrays[_ORDER].long(), weight)
        return weight


@lru_cache(maxsize=4096)
def _planned(rows: int, spec: SumSpec) -> PlaneSum:
    order = torch.empty(spec.cols, dtype=torch.int32, device="meta")
    return PlaneSum.pack([BitPlanes.plan(rows, term.spec) for term in spec.terms], spec, order)
