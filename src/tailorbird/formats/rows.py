"""`RowSpec` and `RowClasses`: rows of a weight in classes, each class in a format of its own.

A text reads few rows of an embedding often and most of them never, and a head seldom says most of its words. So rows
that matter get more bits than the others, at the same bytes in all.

Stored arrays:

==============  =====  ============================================================================================
name            dtype  shape and meaning
==============  =====  ============================================================================================
classes         uint8  (ceil(log2 classes) * ceil(rows / 8),): the class of every row, as one row of bit planes
<array>_<k>     any    the arrays of class k in its format; its rows stand in the order they have in the weight
==============  =====  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats.packed import Fetch, Fit, Layout, PackedWeight, Spec, checked
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.rows import MAP, RowMatrix, joined, places, unpacked
from tailorbird.kernels.triton_matrix import TritonMatrix

MAX_CLASSES = 16


@dataclass(frozen=True)
class RowSpec:
    """The formats of the classes of rows of one weight.

    Attributes:
        sizes: rows of every class, two classes or more.
        formats: format of every class, all of the same number of columns; none has classes itself.
    """

    kind: ClassVar[str] = "rows"

    sizes: tuple[int, ...]
    formats: tuple[Spec, ...]

    def __post_init__(self) -> None:
        """Refuse what the format can't hold."""
        if not 2 <= len(self.sizes) == len(self.formats) <= MAX_CLASSES:
            raise UsageError(f"{len(self.sizes)} classes of rows", hint=f"give 2 to {MAX_CLASSES}, each with a format")
        if any(type(size) is not int or size < 1 for size in self.sizes):
            raise UsageError(f"a class of rows is empty: {self.sizes}", hint="leave it out")
        if len({form.cols for form in self.formats}) > 1 or any(isinstance(form, RowSpec) for form in self.formats):
            raise UsageError("classes of rows differ in their columns, or have classes", hint="edit the plan")

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        return self.formats[0].cols

    @property
    def rows(self) -> int:
        """Rows of all classes."""
        return sum(self.sizes)

    @property
    def mean_bits(self) -> float:
        """Average code bits of a weight, without scales, offsets and the map."""
        return sum(n * form.mean_bits for n, form in zip(self.sizes, self.formats, strict=True)) / self.rows

    @property
    def label(self) -> str:
        """The format in a few words."""
        bits = [form.mean_bits for form in self.formats]
        return f"{len(bits)} classes of rows, {min(bits):g} to {max(bits):g} bits"

    @property
    def affine(self) -> Spec:
        """That of the class with the most bits: the rows that matter lose nothing by it."""
        return max(self.formats, key=lambda form: form.mean_bits).affine

    def plan(self, rows: int) -> RowClasses:
        """All rows on the meta device.

        Raises:
            UsageError: the classes have more or fewer rows.
        """
        if rows != self.rows:
            raise UsageError(f"the classes have {self.rows} rows, the weight {rows}", hint="edit the plan")
        return _planned(self)

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> RowClasses:
        """Check arrays read from outside against what the format needs.

        Raises:
            ArtifactError: an array is missing, too many, of another shape or dtype, or has values it can't have; the
                map gives a class more or fewer rows than it has.
        """
        weight = RowClasses(rows, self, checked(self.plan(rows).arrays, arrays))
        self._map(weight.arrays[MAP])
        for form, part in zip(self.formats, weight.parts, strict=True):
            form.read(part.rows, part.arrays)
        return weight

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Some rows of a stored weight: of every class those that are among them."""
        stored = checked({MAP: self.plan(rows).arrays[MAP]}, {MAP: fetch(MAP, None)})[MAP]
        classes = self._map(stored)
        before, mine = self._counts(classes[:start]), self._counts(classes[start:stop])
        parts = [
            form.part(size, low, low + n, _named(fetch, k))
            for k, (form, size, low, n) in enumerate(zip(self.formats, self.sizes, before, mine, strict=True))
            if n
        ]
        if len(parts) == 1:
            return parts[0]
        kept = torch.tensor([n > 0 for n in mine]).cumsum(0) - 1
        return RowClasses.join(kept[classes[start:stop].long()].to(torch.uint8), parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json."""
        pairs = zip(self.sizes, self.formats, strict=True)
        return {"kind": self.kind, "classes": [{"rows": size} | form.to_json() for size, form in pairs]}

    def _counts(self, classes: Tensor) -> list[int]:
        return torch.bincount(classes, minlength=len(self.sizes)).tolist()

    def _map(self, stored: Tensor) -> Tensor:
        classes = unpacked(stored, len(self.sizes), self.rows)
        if self._counts(classes) != list(self.sizes):
            raise ArtifactError("the map of rows does not fit the classes", hint="fetch the artifact again")
        return classes


@dataclass(frozen=True)
class RowClasses(PackedWeight):
    """One packed weight whose rows are in classes; see the module for its arrays."""

    spec: RowSpec

    @classmethod
    def join(cls, classes: Tensor, parts: Sequence[PackedWeight]) -> RowClasses:
        """Put classes together.

        Args:
            classes: uint8 (rows,), the class of every row.
            parts: the packed rows of each class, in the order they have in the weight.
        """
        spec = RowSpec(tuple(part.rows for part in parts), tuple(part.spec for part in parts))
        return cls(len(classes), spec, joined(classes, [part.arrays for part in parts]))

    @cached_property
    def classes(self) -> Tensor:
        """The class of every row, uint8 (rows,)."""
        return unpacked(self.arrays[MAP], len(self.spec.sizes), self.rows)

    @cached_property
    def places(self) -> Tensor:
        """Where a row stands in its class, int32 (rows,)."""
        return places(self.classes, len(self.spec.sizes))

    @cached_property
    def parts(self) -> list[PackedWeight]:
        """The packed rows of each class."""
        found = []
        for k, (size, form) in enumerate(zip(self.spec.sizes, self.spec.formats, strict=True)):
            plan = form.plan(size)
            found.append(plan.with_arrays({name: self.arrays[f"{name}_{k}"] for name in plan.arrays}))
        return found

    def meaning(self) -> Iterator[Tensor]:
        """The class of every row, then the classes."""
        yield self.classes
        for part in self.parts:
            yield from part.meaning()

    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols), each from its class."""
        classes, where = self.classes[index], self.places[index]
        out = torch.empty(len(classes), self.spec.cols, device=self.device)
        for k, part in enumerate(self.parts):
            mine = (classes == k).nonzero()[:, 0]
            if len(mine):
                out[mine] = part.unpacked(where[mine].long())
        return out

    def fits(self, layout: Layout) -> bool:
        """Where kernels can hold every class."""
        return all(part.fits(layout) for part in self.parts)

    def lay_out(self, layout: Layout) -> RowMatrix:
        """Every class laid out for itself."""
        matrices = [part.lay_out(layout) for part in self.parts]
        return RowMatrix([one for one in matrices if isinstance(one, PackedMatrix | TritonMatrix)], self.classes)


@dataclass(frozen=True)
class FittedRows:
    """What was fitted for every class, before it is packed: a `Fit`.

    Attributes:
        classes: uint8 (rows,), the class of every row.
        fits: by class.
    """

    classes: Tensor
    fits: Sequence[Fit]

    def pack(self) -> RowClasses:
        """The packed weight."""
        return RowClasses.join(self.classes, [fit.pack() for fit in self.fits])

    def meaning(self) -> Iterator[Tensor]:
        """As `RowClasses.meaning`."""
        yield self.classes
        for fit in self.fits:
            yield from fit.meaning()


@lru_cache(maxsize=256)
def _planned(spec: RowSpec) -> RowClasses:
    # Cached: an allocation asks for the same over and over.
    classes = torch.empty(spec.rows, dtype=torch.uint8, device="meta")
    return RowClasses.join(classes, [form.plan(n) for form, n in zip(spec.formats, spec.sizes, strict=True)])


def _named(fetch: Fetch, k: int) -> Fetch:
    return lambda name, span: fetch(f"{name}_{k}", span)


def entries(data: Mapping[str, Any]) -> list[tuple[Any, Mapping[str, Any]]]:
    """Rows and format of every class, as plan.json has them.

    Raises:
        UsageError: there are no two classes, or too many, or one has classes itself.
    """
    classes = data["classes"]
    if set(data) - {"kind"} != {"classes"} or not isinstance(classes, list) or not 2 <= len(classes) <= MAX_CLASSES:
        raise UsageError(f"classes of rows are not {str(data)[:80]}", hint=f"give 2 to {MAX_CLASSES}, as a list")
    if any(not isinstance(entry, dict) or entry.get("kind") == RowSpec.kind for entry in classes):
        raise UsageError("a class of rows has no format, or has classes itself", hint="edit the plan")
    return [(entry["rows"], {key: value for key, value in entry.items() if key != "rows"}) for entry in classes]
