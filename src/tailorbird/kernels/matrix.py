"""`PackedMatrix`: a packed weight laid out anew in memory for the native kernels.

It is made from the canonical arrays of a packed weight, or from runs of any kind, and gives the canonical arrays
back bit for bit, so nobody has to keep both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.kernels.native import extension
from tailorbird.kernels.reference import pack_bits

Activations = Literal["int8", "fp32"]
ARRAYS = ("planes", "scales", "row_scales", "zeros", "offsets", "row_offsets")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One bit-width over some groups of columns; runs over the same columns add up.

    ``w = scale * (code - zero)``, or ``scale * code + offset``. Without zeros and offsets a run is symmetric: zero is
    ``2**(bits - 1)``, and 1/2 for one bit.

    Attributes:
        bits: 1 to 8.
        groups: which groups of columns, n of them.
        codes: uint8 (rows, n * group_size), below ``2**bits``.
        scales: float16 (rows, n), or uint8 with `row_scales`.
        row_scales: float16 (rows,): scale = row_scale * code.
        zeros: uint8 (rows, n).
        offsets: float16 (rows, n), or int8 with `row_offsets`.
        row_offsets: float16 (rows,).
    """

    bits: int
    groups: Sequence[int]
    codes: Tensor
    scales: Tensor
    row_scales: Tensor | None = None
    zeros: Tensor | None = None
    offsets: Tensor | None = None
    row_offsets: Tensor | None = None


@dataclass(frozen=True)
class StoredTerm:
    """One of the packed weights that add up to another.

    Attributes:
        bits: code bits of each group it covers.
        groups: the groups of the sum it covers, rising.
        suffix: what follows the names of its canonical arrays.
    """

    bits: Sequence[int]
    groups: Sequence[int]
    suffix: str = ""


def fits(group_size: int, cols: int) -> bool:
    """Whether the kernels can hold rows of this kind: sums within a group must stay within 32 bits."""
    return group_size <= 32768 and cols <= 2**24


class PackedMatrix:
    """A weight of shape (rows, cols) as the native kernels hold it."""

    def __init__(
        self, native: Any, group_size: int, terms: Sequence[StoredTerm] = (), shapes: Mapping[str, Tensor] | None = None
    ) -> None:
        self.native, self.group_size, self.terms, self._shapes = native, group_size, tuple(terms), shapes or {}

    @classmethod
    def from_arrays(cls, rows: int, bits: Sequence[int], group_size: int, arrays: Mapping[str, Tensor]) -> PackedMatrix:
        """Lay out a packed weight.

        Args:
            rows: rows of the weight.
            bits: code bits of each group of columns.
            group_size: columns in a group.
            arrays: the canonical arrays of the format, by name.

        Raises:
            UsageError: arrays of other shapes or dtypes, or a weight the kernels can't hold (see `fits`).
            TailorbirdError: there are no native kernels.
        """
        return cls.from_terms(rows, len(bits), group_size, [StoredTerm(bits, range(len(bits)))], arrays)

    @classmethod
    def from_terms(
        cls, rows: int, groups: int, group_size: int, terms: Sequence[StoredTerm], arrays: Mapping[str, Tensor]
    ) -> PackedMatrix:
        """Lay out a sum of packed weights over groups of the same columns.

        Args:
            rows: rows of the weight.
            groups: groups of columns of the weight.
            group_size: columns in a group.
            terms: what is added up.
            arrays: their canonical arrays by name and suffix, and the column order of the whole.

        Raises:
            UsageError: as `from_arrays`.
            TailorbirdError: there are no native kernels.
        """
        arrays = {name: array.contiguous() for name, array in arrays.items()}
        order = arrays.get("column_order")
        with _clear():
            runs = [
                _module().Run.make(
                    rows, group_size, bits, [term.groups[g] for g in mine], mine, len(term.bits),
                    *_tensors(arrays, starts, bits, term.suffix)
                )
                for term in terms for bits, mine, starts in stored_runs(term.bits, group_size)
            ]  # fmt: skip
            native = _module().Matrix(rows, group_size, groups, runs, [] if order is None else order.tolist())
        shapes = {name: torch.empty_like(array, device="meta") for name, array in arrays.items()}
        if order is not None:
            shapes["column_order"] = order.clone()
        return cls(native, group_size, terms, shapes)

    @classmethod
    def from_runs(cls, rows: int, groups: int, group_size: int, runs: Sequence[Run]) -> PackedMatrix:
        """Lay out a sum of runs, such as a residual or a split binary weight of `groups` * `group_size` columns.

        Raises:
            UsageError: arrays of other shapes or dtypes, groups out of range, or a weight the kernels can't hold.
            TailorbirdError: there are no native kernels.
        """
        with _clear():
            made = [_make_run(rows, group_size, run) for run in runs]
            return cls(_module().Matrix(rows, group_size, groups, made, []), group_size)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return int(self.native.rows), int(self.native.cols)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, padding included."""
        return int(self.native.nbytes)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedMatrix:
        """The same: it never changes."""
        return self

    def matmul(self, x: Tensor, activations: Activations = "int8") -> Tensor:
        """``x @ W.T``, without gradients.

        Args:
            x: floating point on the CPU, shape (..., cols).
            activations: ``int8`` rounds every row of x to 8 bits with a scale a group of columns; ``fp32`` does not.

        Returns:
            x's dtype, shape (..., rows). A row of x that holds an infinity or no number may come out as no numbers.

        Raises:
            UsageError: x of another width, kind or device.
        """
        rows, cols = self.shape
        if x.device.type != "cpu" or not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != cols:
            raise UsageError(
                f"x is {x.dtype} {tuple(x.shape)} on {x.device}, the weight is {(rows, cols)}",
                hint="give floating point of shape (..., columns) on the CPU",
            )
        flat = x.detach().reshape(-1, cols).to(torch.float32).contiguous()
        out = torch.empty(flat.shape[0], rows)
        with _clear():
            self.native.matmul(flat, out, activations)
        return out.to(x.dtype).reshape(*x.shape[:-1], rows)

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index, exactly as the reference unpacks them.

        Args:
            ids: int64 or int32 on the CPU, any shape.

        Returns:
            float32 (\\*ids.shape, cols).

        Raises:
            UsageError: ids that are no integers on the CPU.
            IndexError: an id that is not a row; negative ones are none.
        """
        if ids.device.type != "cpu" or ids.dtype not in (torch.int64, torch.int32):
            raise UsageError(f"ids are {ids.dtype} on {ids.device}", hint="give int64 on the CPU")
        flat = ids.reshape(-1).to(torch.int64).contiguous()
        out = torch.empty(flat.shape[0], self.shape[1])
        self.native.gather(flat, out)
        return out.reshape(*ids.shape, self.shape[1])

    def arrays(self) -> dict[str, Tensor]:
        """The canonical arrays it was made from, bit for bit, made anew.

        Raises:
            UsageError: it was made from runs.
        """
        if not self.terms:
            raise UsageError("a matrix made from runs has no canonical arrays", hint="keep the runs")
        out = {name: torch.zeros_like(a, device="cpu") if a.is_meta else a for name, a in self._shapes.items()}
        runs = ((term, *run) for term in self.terms for run in stored_runs(term.bits, self.group_size))
        for index, (term, bits, groups, starts) in enumerate(runs):
            self.native.unpack(index, groups, *_tensors(out, starts, bits, term.suffix))
        return out


def stored_runs(bits: Sequence[int], group_size: int) -> Iterator[tuple[int, list[int], tuple[int, int]]]:
    """(bits, groups, (first byte of its planes, first bit of its zero points)) in stored order."""
    byte = bit = 0
    for b in sorted(set(bits)):
        groups = [g for g, other in enumerate(bits) if other == b]
        yield b, groups, (byte, bit)
        byte += b * -(-len(groups) * group_size // 8)
        bit += b * len(groups) if b > 1 else 0


def _tensors(arrays: Mapping[str, Tensor], starts: tuple[int, int], bits: int, suffix: str) -> tuple[Any, ...]:
    planes, scales, row_scales, zeros, offsets, row_offsets = (arrays.get(name + suffix) for name in ARRAYS)
    zeros = zeros if bits > 1 else None  # one-bit groups are symmetric
    return planes, starts[0], scales, row_scales, zeros, starts[1], bits, offsets, row_offsets


def _make_run(rows: int, group_size: int, run: Run) -> Any:
    count = len(run.groups)
    if run.codes.shape != (rows, count * group_size) or run.codes.dtype != torch.uint8:
        raise UsageError(
            f"codes are {run.codes.dtype} {tuple(run.codes.shape)}", hint=f"give uint8 {(rows, count * group_size)}"
        )
    planes = pack_bits(run.codes, run.bits)
    return _module().Run.make(
        rows, group_size, run.bits, list(run.groups), list(range(count)), count, planes, 0, run.scales,
        run.row_scales, run.zeros, 0, 8, run.offsets, run.row_offsets,
    )  # fmt: skip


def _module() -> Any:
    module = extension()
    if module is None:
        raise TailorbirdError("there are no native kernels here", hint="use the reference in `formats`")
    return module


class _clear:
    """Turns what the extension refuses into an error of this package."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, ValueError | TypeError):
            raise UsageError(str(error).split("\n")[0], hint="see the arguments in the documentation") from error
