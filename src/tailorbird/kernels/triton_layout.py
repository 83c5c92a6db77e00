"""How the Triton kernels read a packed weight: made from runs of bit planes, and back.

A word holds 32 neighbouring columns of one plane. Rows stand last, so that neighbouring threads read neighbouring
words; groups are padded to whole words, so that a word has one scale; scales and offsets stay as the file has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.kernels.matrix import Run, stored_runs
from tailorbird.kernels.reference import join_bits, pack_bits, unpack_bits

WORD = 32


@dataclass(frozen=True, kw_only=True)
class RunLayout:
    """A `Run` as the kernels read it.

    Attributes:
        bits: planes.
        groups: which groups of columns.
        words: int32 (words, bits, rows), lowest column in the lowest bit.
        columns: int32 (32 * words,), the weight's column of every bit, `cols` for padding; none if it is the bit's
            own number.
        scales: float16 or uint8 (groups, rows); zeros uint8 and offsets float16 or int8 likewise.
        row_scales: float16 (rows,); row_offsets likewise.
    """

    bits: int
    groups: Sequence[int]
    words: Tensor
    columns: Tensor | None
    scales: Tensor
    row_scales: Tensor | None
    zeros: Tensor | None
    offsets: Tensor | None
    row_offsets: Tensor | None

    @property
    def grid(self) -> tuple[Tensor | None, ...]:
        """What the kernels take after the words, in their order."""
        return self.columns, self.scales, self.row_scales, self.zeros, self.offsets, self.row_offsets

    @property
    def constants(self) -> dict[str, Any]:
        """Numbers the kernels are compiled with."""
        middle = 0.5 if self.bits == 1 else 2.0 ** (self.bits - 1)
        return {"group_words": len(self.words) // len(self.groups), "BITS": self.bits, "MIDDLE": middle}

    def codes(self, group_size: int) -> Tensor:
        """The codes it was made from, uint8 (rows, groups * group_size)."""
        count, bits, rows = self.words.shape
        packed = self.words.permute(2, 1, 0).contiguous().view(rows, bits * count).view(torch.uint8)
        padded = unpack_bits(packed, bits, count * WORD).reshape(rows, len(self.groups), -1)
        return padded[:, :, :group_size].flatten(1)


def canonical_runs(bits: Sequence[int], group_size: int, arrays: Mapping[str, Tensor]) -> Iterator[Run]:
    """The runs of a packed weight in stored order."""
    planes, scales, zeros, offsets = (arrays.get(name) for name in ("planes", "scales", "zeros", "offsets"))
    assert planes is not None and scales is not None
    points = None if zeros is None else unpack_bits(zeros, 1, 8 * zeros.shape[1])
    for b, groups, (byte, bit) in stored_runs(bits, group_size):
        n = len(groups) * group_size
        mine = None
        if points is not None and b > 1:
            mine = join_bits(points[:, bit : bit + b * len(groups)], b)
        yield Run(
            bits=b, groups=groups, codes=unpack_bits(planes[:, byte : byte + b * -(-n // 8)], b, n),
            scales=scales[:, groups], row_scales=arrays.get("row_scales"), zeros=mine,
            offsets=None if offsets is None else offsets[:, groups], row_offsets=arrays.get("row_offsets"),
        )  # fmt: skip


def lay_out(run: Run, rows: int, groups: int, group_size: int, order: Tensor | None) -> RunLayout:
    """Lay out one run.

    Args:
        run: what is laid out, on the device where it stays.
        rows: rows of the weight.
        groups: groups of columns of the weight.
        group_size: columns in a group.
        order: int32 (columns,), the weight's column of every stored one; none if they are the same.

    Raises:
        UsageError: codes of another shape or dtype.
    """
    pad, count, device = -group_size % WORD, len(run.groups), run.codes.device
    if run.codes.shape != (rows, count * group_size) or run.codes.dtype != torch.uint8:
        raise UsageError(
            f"codes are {run.codes.dtype} {tuple(run.codes.shape)}", hint=f"give uint8 {(rows, count * group_size)}"
        )
    codes = torch.nn.functional.pad(run.codes.reshape(rows, count, group_size), (0, pad)).flatten(1)
    words = pack_bits(codes, run.bits).view(torch.int32).view(rows, run.bits, -1).permute(2, 1, 0).contiguous()
    cols = groups * group_size
    columns = torch.tensor(run.groups, device=device)[:, None] * group_size + torch.arange(group_size, device=device)
    if order is not None:
        columns = order[columns]
    columns = torch.nn.functional.pad(columns, (0, pad), value=cols).flatten().to(torch.int32)
    own = torch.arange(len(columns), dtype=torch.int32, device=device).clamp_max(cols)
    return RunLayout(
        bits=run.bits, groups=tuple(run.groups), words=words, columns=None if torch.equal(columns, own) else columns,
        scales=run.scales.T.contiguous(), row_scales=run.row_scales, zeros=_rows_last(run.zeros),
        offsets=_rows_last(run.offsets), row_offsets=run.row_offsets,
    )  # fmt: skip


def _rows_last(array: Tensor | None) -> Tensor | None:
    return None if array is None else array.T.contiguous()
