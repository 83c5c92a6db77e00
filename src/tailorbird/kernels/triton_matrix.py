"""`TritonMatrix`: a packed weight laid out anew on a GPU for the Triton kernels.

As `PackedMatrix` it is made from the canonical arrays or from runs, and gives the arrays back bit for bit. This file
needs no Triton: the kernels are imported at the first product.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tailorbird.errors import UsageError, require
from tailorbird.kernels.matrix import ARRAYS, Activations, Run, StoredTerm
from tailorbird.kernels.native import SlowKernelsWarning
from tailorbird.kernels.reference import pack_bits, split_bits
from tailorbird.kernels.triton_layout import RunLayout, canonical_runs, lay_out

_KEPT = ("row_scales", "row_offsets")


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether Triton is installed; warns once if it is not."""
    found = find_spec("triton") is not None
    if not found:
        warnings.warn(
            "Triton is missing: packed weights on a GPU run on plain PyTorch, many times slower; "
            "pip install 'tailorbird[triton]'",
            SlowKernelsWarning,
            stacklevel=2,
        )
    return found


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    require("triton", extra="triton")
    from tailorbird.kernels import triton_kernels

    return triton_kernels


class TritonMatrix:
    """A weight of shape (rows, cols) as the Triton kernels read it; its tensors stay where the arrays were."""

    def __init__(self, shape: tuple[int, int], group_size: int, runs: Sequence[RunLayout]) -> None:
        self.shape, self.group_size, self._runs = shape, group_size, tuple(runs)
        self._kept: dict[str, Tensor] | None = None
        self._terms: list[tuple[str, slice]] = []

    @classmethod
    def from_arrays(cls, rows: int, bits: Sequence[int], group_size: int, arrays: Mapping[str, Tensor]) -> TritonMatrix:
        """Lay out a packed weight.

        Args:
            rows: rows of the weight.
            bits: code bits of each group of columns.
            group_size: columns in a group.
            arrays: the canonical arrays of the format by name, checked before, all on one device.
        """
        return cls.from_terms(rows, len(bits), group_size, [StoredTerm(bits, range(len(bits)))], arrays)

    @classmethod
    def from_terms(
        cls, rows: int, groups: int, group_size: int, terms: Sequence[StoredTerm], arrays: Mapping[str, Tensor]
    ) -> TritonMatrix:
        """Lay out a sum of packed weights over groups of the same columns; see `PackedMatrix.from_terms`."""
        order, made = arrays.get("column_order"), list[RunLayout]()
        matrix = cls((rows, groups * group_size), group_size, made)
        matrix._kept = {} if order is None else {"column_order": order}
        for term in terms:
            own = {name: arrays[name + term.suffix] for name in ARRAYS if name + term.suffix in arrays}
            runs = [
                replace(run, groups=[term.groups[g] for g in run.groups])
                for run in canonical_runs(term.bits, group_size, own)
            ]
            matrix._terms.append((term.suffix, slice(len(made), len(made) + len(runs))))
            made += [lay_out(run, rows, groups, group_size, order) for run in runs]
            matrix._kept |= {name + term.suffix: own[name] for name in _KEPT if name in own}
            if "zeros" in own:  # those of groups above one bit are in the runs
                matrix._kept[f"zeros{term.suffix}"] = own["zeros"][:, :0]
        matrix._runs = tuple(made)
        return matrix

    @classmethod
    def from_runs(cls, rows: int, groups: int, group_size: int, runs: Sequence[Run]) -> TritonMatrix:
        """Lay out a sum of runs, such as a residual or a split binary weight of `groups` * `group_size` columns."""
        made = [lay_out(run, rows, groups, group_size, None) for run in runs]
        return cls((rows, groups * group_size), group_size, made)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._runs[0].words.device

    @property
    def nbytes(self) -> int:
        """Bytes of memory, padding included."""
        tensors = [*(self._kept or {}).values(), *(t for run in self._runs for t in (run.words, *run.grid))]
        return sum(t.nbytes for t in {id(t): t for t in tensors if t is not None}.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> TritonMatrix:
        """The same: it never changes."""
        return self

    def matmul(self, x: Tensor, activations: Activations = "fp32") -> Tensor:
        """``x @ W.T``, without gradients, summed in float32.

        Args:
            x: floating point on the matrix's device, shape (..., cols). With more than 8 rows of halves or bfloat16
                the weights are rounded to that too.
            activations: there for the sake of `PackedMatrix.matmul`; nothing is rounded to 8 bits here.

        Returns:
            x's dtype, shape (..., rows).

        Raises:
            UsageError: x of another width, kind or device.
            MissingExtra: Triton is not installed.
        """
        rows, cols = self.shape
        if x.device != self.device or not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != cols:
            raise UsageError(
                f"x is {x.dtype} {tuple(x.shape)} on {x.device}, the weight is {(rows, cols)} on {self.device}",
                hint="give floating point of shape (..., columns) on the weight's device",
            )
        flat = x.detach().reshape(-1, cols)
        out = self._product(flat) if len(flat) else flat.new_empty(0, rows)
        return out.to(x.dtype).reshape(*x.shape[:-1], rows)

    def _product(self, x: Tensor) -> Tensor:
        kernels, rows = _kernels(), self.shape[0]
        x = x.to(x.dtype if x.dtype in kernels.DTYPES else torch.float32).contiguous()
        shares = [kernels.share(rows, len(run.words), len(x), _processors(x.device)) for run in self._runs]
        parts = [-(-len(run.words) // share) for run, share in zip(self._runs, shares, strict=True)]
        dtype = x.dtype if sum(parts) == 1 else torch.float32
        out = torch.empty(sum(parts), len(x), rows, device=x.device, dtype=dtype)
        with torch.cuda.device(x.get_device()):
            for run, share, mine in zip(self._runs, shares, torch.split(out, parts), strict=True):
                kernels.matmul(x, mine, run.words, *run.grid, words_each=share, **run.constants)
        return out[0] if len(out) == 1 else out.sum(0)

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index, as the reference unpacks them.

        Args:
            ids: int64 or int32 on the matrix's device, any shape. What is no row gives zeros: to refuse it, one
                would have to wait for the device.

        Returns:
            float32 (\\*ids.shape, cols).

        Raises:
            UsageError: ids that are no integers on this device.
            MissingExtra: Triton is not installed.
        """
        if ids.device != self.device or ids.dtype not in (torch.int64, torch.int32):
            raise UsageError(f"ids are {ids.dtype} on {ids.device}", hint=f"give int64 on {self.device}")
        kernels, flat = _kernels(), ids.reshape(-1).to(torch.int64).contiguous()
        out = torch.zeros(len(flat), self.shape[1], device=ids.device)
        with torch.cuda.device(ids.get_device()):
            for run in self._runs if len(flat) else ():
                kernels.gather(flat, out, run.words, *run.grid, **run.constants)
        return out.reshape(*ids.shape, self.shape[1])

    def arrays(self) -> dict[str, Tensor]:
        """The canonical arrays it was made from, bit for bit, made anew on its device.

        Raises:
            UsageError: it was made from runs.
        """
        if self._kept is None:
            raise UsageError("a matrix made from runs has no canonical arrays", hint="keep the runs")
        out = dict(self._kept)
        for suffix, own in self._terms:
            out |= {name + suffix: array for name, array in _stored(self._runs[own], self.group_size).items()}
        return out


def _stored(runs: Sequence[RunLayout], group_size: int) -> dict[str, Tensor]:
    """The arrays of one term that are laid out in its runs."""
    planes = [pack_bits(run.codes(group_size), run.bits) for run in runs]
    out = {"planes": torch.cat(planes, dim=1), "scales": _by_group(runs, "scales")}
    if runs[0].offsets is not None:
        out["offsets"] = _by_group(runs, "offsets")
    points = [split_bits(run.zeros.T, run.bits) for run in runs if run.zeros is not None]
    return out | ({"zeros": pack_bits(torch.cat(points, dim=1), 1)} if points else {})


def _by_group(runs: Sequence[RunLayout], name: str) -> Tensor:
    """An array of all runs as it is stored: (rows, groups)."""
    parts = [getattr(run, name).T for run in runs]
    stored = torch.tensor([g for run in runs for g in run.groups], device=parts[0].device)
    return torch.cat(parts, dim=1)[:, stored.argsort()].contiguous()


@lru_cache(maxsize=16)
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # the interpreter has none: a number that splits long rows
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
