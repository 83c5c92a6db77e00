"""The compensation sweep into llama.cpp's block types.

Columns are rounded in turn and later ones make up for the error, as in `sweep`. A block's halves are chosen when the
sweep reaches it, the whole-numbered scales of a sub-block when it reaches the sub-block.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.compensate import compensate, strides
from tailorbird.formats.ggml import BlockType
from tailorbird.formats.ggml.blocks import Numbers, code_of, pack
from tailorbird.formats.ggml.codec import fit, refit
from tailorbird.formats.ggml.nearest import inverse, nearest_point

ROW_CHUNK = 2048


def fit_ggml(weight: Tensor, kind: BlockType, upper: Tensor) -> Tensor:
    """Blocks that lose little of trace(dW H dW^T).

    Args:
        weight: float32 (rows, cols); left as it is.
        kind: the block type.
        upper: `sweep_factor` of the Gram matrix H.

    Returns:
        uint8 (rows, bytes of a row).

    Raises:
        UsageError: the columns are not whole blocks.
    """
    if weight.shape[1] % kind.weights:
        raise UsageError(
            f"rows of {weight.shape[1]} weights are not whole {kind.name} blocks of {kind.weights}",
            hint="choose a type with smaller blocks",
        )
    # An error in column j costs its square over upper[j, j]^2 once later columns have made up for it.
    importance = upper.diagonal().square().reciprocal()
    importance /= importance.mean()
    starts = range(0, len(weight), ROW_CHUNK)
    return torch.cat([_Chunk(weight[a : a + ROW_CHUNK].float(), kind, importance).run(upper) for a in starts])


class _Chunk:
    """The sweep over some rows, columns first."""

    def __init__(self, rows: Tensor, kind: BlockType, importance: Tensor) -> None:
        self.kind, self.importance = kind, importance
        self.w = rows.T.clone(memory_format=torch.contiguous_format)
        self.codes = torch.empty(self.w.shape, dtype=torch.uint8)
        self.nearest = nearest_point(kind.grid)
        self.blocks: list[Numbers] = []

    def run(self, upper: Tensor) -> Tensor:
        """All columns; returns blocks, uint8 (rows, bytes)."""
        compensate(self.w, upper, self._column, *strides(self.kind.weights))
        parts = [self._packed(n, numbers) for n, numbers in enumerate(self.blocks)]
        return torch.cat(parts, dim=1)

    def _column(self, j: int, w: Tensor) -> Tensor:
        size = self.kind.weights
        if j % size == 0:
            columns = slice(j, j + size)
            self.blocks.append(fit(self._rows(columns), self.kind, self.importance[columns]))
            self._use(self.blocks[-1])
        elif self.kind.scales and j % self.kind.sub == 0:
            self._refit(slice(j, j + self.kind.sub), j % size // self.kind.sub)
        sub = j % size // self.kind.sub
        value = w if self.offset is None else w - self.offset[sub]
        level = self.nearest(value * self.inverse[sub])
        self.codes[j] = code_of(level, self.kind.grid)
        value = level * self.step[sub]
        return value if self.offset is None else value.add_(self.offset[sub])

    def _refit(self, columns: slice, sub: int) -> None:
        self.blocks[-1] = refit(self.blocks[-1], sub, self._rows(columns), self.kind, self.importance[columns])
        self._use(self.blocks[-1])

    def _rows(self, columns: slice) -> Tensor:
        """Columns as they are now: (rows, columns)."""
        return self.w[columns].T.contiguous()

    def _use(self, numbers: Numbers) -> None:
        self.step = numbers.step.T.contiguous()
        self.inverse = inverse(self.step)
        self.offset = None if numbers.offset is None else numbers.offset.T.contiguous()

    def _packed(self, n: int, numbers: Numbers) -> Tensor:
        size = self.kind.weights
        codes = self.codes[n * size : (n + 1) * size].T.reshape(-1, self.kind.subs, self.kind.sub)
        return pack(replace(numbers, codes=codes), self.kind)
