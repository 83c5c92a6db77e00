"""What all formats of a weight share: `Spec`, the format without the weight, and `PackedWeight`, a weight in it.

A `Spec` knows its bytes, reads arrays from outside with care, and writes itself down as JSON under its `kind`
(`family.KINDS`). Nothing here says that a format has groups, or one number of bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from tailorbird.errors import ArtifactError
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.rows import RowMatrix
from tailorbird.kernels.triton_matrix import TritonMatrix

ROW_CHUNK = 1024
P = TypeVar("P", bound="PackedWeight")
Layout = type[PackedMatrix] | type[TritonMatrix]
# Rows from one to another of a stored array by its name, or with None all of it.
Fetch = Callable[[str, tuple[int, int] | None], Tensor]


class Spec(Protocol):
    """The format of one weight, hashable plain data.

    Attributes:
        kind: what plan.json calls it.
    """

    kind: ClassVar[str]

    @property
    def cols(self) -> int:
        """Columns of the weight."""
        ...

    @property
    def mean_bits(self) -> float:
        """Average code bits of a weight, without scales and offsets."""
        ...

    @property
    def label(self) -> str:
        """The format in a few words."""
        ...

    @property
    def affine(self) -> Spec:
        """The nearest format of affine planes, for runtimes that know no others; itself where it is one."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json."""
        ...

    def plan(self, rows: int) -> PackedWeight:
        """A weight of so many rows on the meta device: shapes and bytes from the real packer, no memory."""
        ...

    def read(self, rows: int, arrays: Mapping[str, Tensor]) -> PackedWeight:
        """Check arrays read from outside against what the format needs.

        Raises:
            ArtifactError: an array is missing, too many, of another shape or dtype, or has values it can't have.
        """
        ...

    def part(self, rows: int, start: int, stop: int, fetch: Fetch) -> PackedWeight:
        """Rows start to stop of a stored weight of `rows` rows, of which only those are fetched.

        Raises:
            ArtifactError: as `read`.
        """
        ...


@dataclass(frozen=True)
class PackedWeight(ABC):
    """One packed weight of shape (rows, cols): a spec and its stored arrays by name."""

    rows: int
    spec: Spec
    arrays: Mapping[str, Tensor]

    @classmethod
    def plan(cls, rows: int, spec: Any) -> PackedWeight:
        """`Spec.plan`."""
        planned: PackedWeight = spec.plan(rows)
        return planned

    @classmethod
    def from_arrays(cls, rows: int, spec: Any, arrays: Mapping[str, Tensor]) -> PackedWeight:
        """`Spec.read`."""
        found: PackedWeight = spec.read(rows, arrays)
        return found

    @abstractmethod
    def meaning(self) -> Iterator[Tensor]:
        """What the weight means, however it is packed: codes, then scales and the like. Digests are taken of this."""

    @abstractmethod
    def unpacked(self, index: slice | Tensor) -> Tensor:
        """Some rows as float32 (n, cols), in the weight's own column order: the definition of the format."""

    def fits(self, layout: Layout) -> bool:
        """Whether kernels can hold it; where they can't, the reference serves."""
        return False

    def lay_out(self, layout: Layout) -> PackedMatrix | TritonMatrix | RowMatrix:
        """The weight laid out for kernels that can hold it."""
        raise NotImplementedError(f"there are no kernels for {self.spec.label}")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.spec.cols

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return next(iter(self.arrays.values())).device

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.numel() * a.element_size() for a in self.arrays.values())

    def to(self: P, device: torch.device) -> P:
        """The same arrays on another device."""
        return self.with_arrays({name: array.to(device) for name, array in self.arrays.items()})

    def with_arrays(self: P, arrays: Mapping[str, Tensor]) -> P:
        """The same format with other arrays, unchecked."""
        return replace(self, arrays=arrays)

    def scaled(self: P, factors: Tensor) -> P:
        """Every row times a factor, float32 (rows,): the same codes. In all formats what a row is multiplied with, and
        what is added to it, is stored as halves; these are rounded anew."""

        def times(array: Tensor) -> Tensor:
            value = array.float() * factors.view(-1, *[1] * (array.dim() - 1))
            return value.clamp(-65504, 65504).half()

        halves = {name: times(array) for name, array in self.arrays.items() if array.dtype is torch.float16}
        return self.with_arrays({**self.arrays, **halves})

    def dequantize(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop as float32 (n, cols), in the weight's own column order."""
        stop = self.rows if stop is None else min(stop, self.rows)
        out = torch.empty(stop - start, self.spec.cols, device=self.device)
        for low in range(start, stop, ROW_CHUNK):
            high = min(low + ROW_CHUNK, stop)
            out[low - start : high - start] = self.unpacked(slice(low, high))
        return out

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index: float32 (\\*ids.shape, cols); what an embedding look-up reads."""
        return self.unpacked(ids.reshape(-1)).reshape(*ids.shape, self.spec.cols)

    def matmul(self, x: Tensor) -> Tensor:
        """``x @ W.T`` for x of shape (..., cols): the reference; weights are unpacked a few rows at a time.

        Returns:
            float32 or x's dtype, shape (..., rows).
        """
        chunks = range(0, self.rows, ROW_CHUNK)
        parts = [torch.nn.functional.linear(x, self.unpacked(slice(a, a + ROW_CHUNK)).to(x.dtype)) for a in chunks]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


# Classes of weights by kind, for specs that stand below their weights and can't name them.
WEIGHTS: dict[str, type[PackedWeight]] = {}


class Fit(Protocol):
    """What a method chose for one weight, before it is packed."""

    def pack(self) -> PackedWeight:
        """The packed weight."""
        ...

    def meaning(self) -> Iterator[Tensor]:
        """The same as `PackedWeight.meaning`, from what was fitted."""
        ...


def checked(wanted: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arrays from outside that are those of a plan.

    Raises:
        ArtifactError: an array is missing, too many, or of another shape or dtype.
    """
    if set(wanted) != set(arrays):
        raise ArtifactError(f"a packed weight needs {sorted(wanted)}, found {sorted(arrays)}", hint="fetch it again")
    for name, want in wanted.items():
        got = arrays[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise ArtifactError(
                f"{name} is {got.dtype} {tuple(got.shape)}, the plan says {want.dtype} {tuple(want.shape)}",
                hint="the artifact is damaged: fetch or make it again",
            )
    return dict(arrays)


def repeated(row: Mapping[str, Tensor], rows: int, whole: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The arrays of so many rows on the meta device, after those of one packed row.

    Args:
        row: arrays with one row.
        rows: how many there are to be.
        whole: arrays that do not lie row by row.
    """
    shapes = {name: array.shape if name in whole else (rows, *array.shape[1:]) for name, array in row.items()}
    return {name: torch.empty(shapes[name], dtype=array.dtype, device="meta") for name, array in row.items()}


def check_order(order: Tensor) -> None:
    """Raise ArtifactError where a stored column order is no permutation."""
    expected = torch.arange(len(order), dtype=order.dtype, device=order.device)
    if not torch.equal(order.sort().values, expected):
        raise ArtifactError("column_order is not a permutation", hint="the artifact is damaged: fetch it again")


def fetched(spec: Spec, rows: int, start: int, stop: int, fetch: Fetch, whole: tuple[str, ...] = ()) -> PackedWeight:
    """`Spec.part` of a format whose arrays have a row for every row of the weight, but for those named in `whole`."""
    span = None if (start, stop) == (0, rows) else (start, stop)
    arrays = {name: fetch(name, None if name in whole else span) for name in spec.plan(1).arrays}
    return spec.read(stop - start, arrays)
