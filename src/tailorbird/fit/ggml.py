"""The compensation sweep into llama.cpp's block types.

Columns are rounded in turn and later ones make up for the error, as in `sweep`. A block's halves are chosen when the
sweep reaches it, the whole-numbered scales of a sub-block when it reaches the sub-block, and on a codebook the points
of eight columns when it reaches these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.compensate import compensate, strides
from tailorbird.formats.ggml import BlockType
from tailorbird.formats.ggml.blocks import Numbers, bits_of, code_of, pack
from tailorbird.formats.ggml.codec import fit, refit
from tailorbird.formats.ggml.nearest import inverse, nearest_point
from tailorbird.formats.ggml.points import Search, refit_points
from tailorbird.formats.ggml.types import Codebook

ROW_CHUNK = 2048
_EIGHT = 8  # columns whose signs or points are chosen together


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
    chunk = _Points if isinstance(kind.grid, Codebook) else _Columns
    return torch.cat([chunk(weight[a : a + ROW_CHUNK].float(), kind, importance).run(upper) for a in starts])


class _Chunk(ABC):
    """The sweep over some rows, columns first."""

    def __init__(self, rows: Tensor, kind: BlockType, importance: Tensor) -> None:
        self.kind, self.importance = kind, importance
        self.w = rows.T.clone(memory_format=torch.contiguous_format)
        self.blocks: list[Numbers] = []

    def run(self, upper: Tensor) -> Tensor:
        """All columns; returns blocks, uint8 (rows, bytes)."""
        compensate(self.w, upper, self._column, *strides(self.kind.weights))
        return torch.cat([pack(numbers, self.kind) for numbers in self._done()], dim=1)

    @abstractmethod
    def _column(self, j: int, w: Tensor) -> Tensor:
        """What column j is rounded to, as it is now."""

    @abstractmethod
    def _done(self) -> list[Numbers]:
        """The blocks with the codes that were chosen."""

    def _rows(self, columns: slice) -> Tensor:
        """Columns as they are now: (rows, columns)."""
        return self.w[columns].T.contiguous()

    def _begin(self, j: int) -> None:
        """Fit the block that starts at column j."""
        columns = slice(j, j + self.kind.weights)
        self.blocks.append(fit(self._rows(columns), self.kind, self.importance[columns]))

    def _by_block(self, found: Tensor, each: int) -> tuple[Tensor, ...]:
        """What was found by column, or by some columns, `each` in a sub-block: (rows, subs, each) of every block."""
        size = self.kind.subs * each
        return tuple(found[a : a + size].T.reshape(-1, self.kind.subs, each) for a in range(0, len(found), size))


class _Columns(_Chunk):
    """Types whose weights have a code each."""

    def __init__(self, rows: Tensor, kind: BlockType, importance: Tensor) -> None:
        super().__init__(rows, kind, importance)
        assert not isinstance(kind.grid, Codebook)
        self.grid = kind.grid
        self.codes = torch.empty(self.w.shape, dtype=torch.uint8)
        self.nearest = nearest_point(kind.grid)

    def _column(self, j: int, w: Tensor) -> Tensor:
        size = self.kind.weights
        if j % size == 0:
            self._begin(j)
            self._use(self.blocks[-1])
        elif self.kind.scales and j % self.kind.sub == 0:
            self._refit(slice(j, j + self.kind.sub), j % size // self.kind.sub)
        sub = j % size // self.kind.sub
        value = w if self.offset is None else w - self.offset[sub]
        level = self.nearest(value * self.inverse[sub])
        self.codes[j] = code_of(level, self.grid)
        value = level * self.step[sub]
        return value if self.offset is None else value.add_(self.offset[sub])

    def _refit(self, columns: slice, sub: int) -> None:
        self.blocks[-1] = refit(self.blocks[-1], sub, self._rows(columns), self.kind, self.importance[columns])
        self._use(self.blocks[-1])

    def _use(self, numbers: Numbers) -> None:
        self.step = numbers.step.T.contiguous()
        self.inverse = inverse(self.step)
        self.offset = None if numbers.offset is None else numbers.offset.T.contiguous()

    def _done(self) -> list[Numbers]:
        codes = self._by_block(self.codes, self.kind.sub)
        return [replace(numbers, codes=mine) for numbers, mine in zip(self.blocks, codes, strict=True)]


class _Points(_Chunk):
    """Types on a codebook."""

    def __init__(self, rows: Tensor, kind: BlockType, importance: Tensor) -> None:
        super().__init__(rows, kind, importance)
        assert isinstance(kind.grid, Codebook)
        self.grid = kind.grid
        cols, count = self.w.shape
        self.codes = torch.empty(cols // self.grid.dim, count, dtype=torch.int16)
        self.signs = torch.empty(cols // _EIGHT, count, dtype=torch.uint8)

    def _column(self, j: int, w: Tensor) -> Tensor:
        if j % self.kind.weights == 0:
            self._begin(j)
        if j % self.kind.sub == 0:
            self._refit(j, j % self.kind.weights // self.kind.sub)
        if j % _EIGHT == 0:
            self._choose(j)
        return self.values[j % _EIGHT]

    def _search(self, j: int, count: int) -> Search:
        columns = slice(j, j + count)
        return Search(self._rows(columns)[:, None], self.importance[columns].view(1, 1, -1), self.grid)

    def _refit(self, j: int, sub: int) -> None:
        """The scale of the sub-block that starts at column j, and its shift where its points share one."""
        block, search = self.blocks[-1], self._search(j, self.kind.sub)
        assert block.scales is not None
        block.scales[:, sub : sub + 1] = refit_points(search, block.d, block.scales[:, sub : sub + 1])
        self.step = block.step[:, sub : sub + 1]
        self.shift = search.shift(self.step) if self.grid.shared else None

    def _choose(self, j: int) -> None:
        """The points of the eight columns from j on."""
        search = self._search(j, _EIGHT)
        codes = search.codes(self.step, self.shift)
        self.values = (search.levels(codes) * self.step[:, :, None])[:, 0].T.contiguous()
        dim = self.grid.dim
        self.codes[j // dim : (j + _EIGHT) // dim] = codes[:, 0].T
        if search.minus is not None:
            self.signs[j // _EIGHT] = bits_of(search.minus)[:, 0, 0]

    def _done(self) -> list[Numbers]:
        codes = self._by_block(self.codes, self.kind.sub // self.grid.dim)
        signs = self._by_block(self.signs, self.kind.sub // _EIGHT) if self.kind.signs else [None] * len(codes)
        mine = zip(self.blocks, codes, signs, strict=True)
        return [replace(numbers, codes=points, signs=bits) for numbers, points, bits in mine]
