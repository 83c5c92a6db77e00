"""Paths through a trellis: what the bits of a row mean, the search for them, and the native kernels' matrix.

A row is a string of bits, lowest first. Every column adds a few and reads bits that end with its own (zeros stand
before the first). With up to two bits a column it reads the `SHORT` newest, which look the code up in one table; with
more it reads `STATE`: the older half looks up one table, the newer half another, and the code is the sum. A group of
columns has a number of half bits a column: of an odd number even columns get the smaller half.

Source: trellis coded quantization (Marcellin and Fischer, 1990), and bit-shift trellises for weights (QTIP, arXiv
2406.11235). Small tables in place of a large one are ours: a processor looks 64 or 128 bytes up in one instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.kernels.matrix import PackedMatrix, _clear, _module
from tailorbird.kernels.native import extension
from tailorbird.kernels.trellis_tables import TABLES

STATE = 12
# Up to so many half bits one table is looked up, with so many bits.
ONE_TABLE, SHORT = 4, 7
UNIT = 16
MIN_HALVES, MAX_HALVES = 2, 8
MAX_BEAM = 256
# Codes of the tables have about this standard deviation.
DEVIATION = 26.0
_HALF = 2 ** (STATE // 2)


def row_bytes(halves: Sequence[int], group_size: int) -> int:
    """Bytes of a row; groups are whole units of 16 columns, and so whole bytes."""
    return sum(halves) * group_size // UNIT


@lru_cache(maxsize=64)
def column_bits(halves: tuple[int, ...], group_size: int) -> Tensor:
    """Bits of every column, int64 (cols,)."""
    odd = torch.arange(group_size) % 2
    return torch.cat([(h + odd) // 2 for h in halves])


def codes(stream: Tensor, halves: tuple[int, ...], group_size: int) -> Tensor:
    """The codes of rows, int8 (rows, cols), from their bytes, uint8 (rows, `row_bytes`): the definition."""
    ends = column_bits(halves, group_size).cumsum(0).to(stream.device)
    first = ends - STATE + UNIT  # two bytes of zeros stand in front
    bytes_ = torch.nn.functional.pad(stream, (2, 1)).to(torch.int32)
    at = first // 8
    words = bytes_[:, at] | bytes_[:, at + 1] << 8 | bytes_[:, at + 2] << 16
    states = (words >> (first % 8)) & (2**STATE - 1)
    which = torch.tensor(halves, device=stream.device).repeat_interleave(group_size)
    values = state_values().to(stream.device)
    return values[which, states.long()]


@lru_cache(maxsize=1)
def state_values() -> Tensor:
    """The code of every state, the oldest bit lowest: int8 (9, 4096), a row for every number of half bits."""
    rows = [values_of(torch.tensor(table, dtype=torch.int8), MIN_HALVES + k) for k, table in enumerate(TABLES)]
    return torch.nn.functional.pad(torch.stack(rows), (0, 0, MIN_HALVES, 0))


def values_of(table: Tensor, halves: int) -> Tensor:
    """The value of every state, (4096,), by a table of 128."""
    if halves <= ONE_TABLE:
        return table[torch.arange(2**STATE) >> (STATE - SHORT)]
    return (table[_HALF:, None] + table[None, :_HALF]).flatten()


def search(
    weight: Tensor,
    scale: Tensor,
    upper: Tensor,
    halves: tuple[int, ...],
    group_size: int,
    beam: int,
    values: Tensor | None = None,
) -> Tensor:
    """Paths that lose little: of all paths so far the `beam` best go on at every column, and later columns make up for
    the errors of each.

    Args:
        weight: float32 (rows, cols).
        scale: float32 (rows, groups), what a code is multiplied with.
        upper: float32 (cols, cols), the factor of the compensation sweep.
        halves: half bits a column of every group.
        group_size: columns of a group, a multiple of 16.
        beam: 1 to 256.
        values: of other states than `state_values`, float32 (9, 4096).

    Returns:
        uint8 (rows, `row_bytes`).
    """
    values = _newest_lowest(state_values().float() if values is None else values)
    if extension() is None:
        parts = [
            _search(weight[a : a + 64], scale[a : a + 64], upper, halves, group_size, beam, values)
            for a in range(0, len(weight), 64)
        ]
        return torch.cat(parts)
    stream = torch.zeros(len(weight), row_bytes(halves, group_size), dtype=torch.uint8)
    arrays = (values.contiguous(), weight.contiguous(), scale.contiguous(), upper.contiguous())
    with _clear():
        _module().trellis_search(group_size, torch.tensor(halves, dtype=torch.uint8), *arrays, beam, stream)
    return stream


class TrellisMatrix(PackedMatrix):
    """A weight of paths through a trellis as the native kernels hold it."""

    @classmethod
    def from_stream(cls, halves: tuple[int, ...], group_size: int, arrays: Mapping[str, Tensor]) -> TrellisMatrix:
        """Lay out a packed weight.

        Args:
            halves: half bits a column of every group.
            group_size: columns of a group.
            arrays: the canonical arrays of the format, by name.

        Raises:
            UsageError: arrays of other shapes, or a weight the kernels can't hold (see `matrix.fits`).
            TailorbirdError: there are no native kernels.
        """
        count = torch.tensor(halves, dtype=torch.uint8)
        with _clear():
            native = _module().trellis_matrix(group_size, count, _native_tables(), *_bytes(arrays))
        shapes = {name: torch.empty_like(array, device="meta") for name, array in arrays.items()}
        return cls(native, group_size, (), shapes)

    def arrays(self) -> dict[str, Tensor]:
        """The canonical arrays it was made from, bit for bit, made anew."""
        out = {name: torch.zeros_like(array, device="cpu") for name, array in self._shapes.items()}
        _module().trellis_unpack(self.native, *_bytes(out))
        return out


def _bytes(arrays: Mapping[str, Tensor]) -> list[Any]:
    """Stream, scales and row scales as bytes, (rows, n) each; the last may be missing."""
    if any(not array.is_contiguous() for array in arrays.values()):
        raise UsageError("arrays of a trellis are not contiguous", hint="make them so")
    units = arrays["row_scales"].view(-1, 1).view(torch.uint8) if "row_scales" in arrays else None
    return [arrays["stream"], arrays["scales"].view(torch.uint8), units]


@lru_cache(maxsize=1)
def _native_tables() -> Tensor:
    """Tables as bytes around 128, (9 * 128,)."""
    tables = torch.tensor(TABLES, dtype=torch.int16)
    one = ONE_TABLE + 1 - MIN_HALVES
    tables[:one] += 128
    tables[one:, :_HALF] += 128
    return torch.nn.functional.pad(tables & 255, (0, 0, MIN_HALVES, 0)).to(torch.uint8).flatten()


@lru_cache(maxsize=1)
def _reversed() -> Tensor:
    """States with their bits turned round."""
    states = torch.arange(2**STATE)
    return torch.stack([(states >> b & 1) << (STATE - 1 - b) for b in range(STATE)]).sum(0)


def _newest_lowest(values: Tensor) -> Tensor:
    """By states whose newest bit is the lowest, so that the children of a state are neighbours."""
    return values[:, _reversed()]


def _search(
    weight: Tensor, scale: Tensor, upper: Tensor, halves: tuple[int, ...], group_size: int, beam: int, values: Tensor
) -> Tensor:
    """The search in plain PyTorch, looking ahead over the whole row."""
    rows = len(weight)
    ahead, loss = weight.float()[:, None].clone(), torch.zeros(rows, 1)
    states, bits = torch.zeros(rows, 1, dtype=torch.long), column_bits(halves, group_size).tolist()
    steps = []
    for j, k in enumerate(bits):
        g = j // group_size
        children = ((states << k)[..., None] | torch.arange(2**k)) & (2**STATE - 1)
        errors = ahead[:, :, j, None] - values[halves[g]][children] * scale[:, g, None, None]
        errors = (errors / upper[j, j]).flatten(1)
        losses = (loss[..., None] + errors.view(children.shape).square()).flatten(1)
        loss, kept = losses.topk(min(beam, losses.shape[1]), largest=False)
        parent, symbol = kept >> k, kept & (2**k - 1)
        states = children.flatten(1).gather(1, kept)
        moved = errors.gather(1, kept)[..., None] * upper[j]
        ahead = ahead.gather(1, parent[..., None].expand(-1, -1, ahead.shape[2])) - moved
        steps.append((parent, symbol))
    place, path = loss.argmin(1, keepdim=True), []
    for k, (parent, symbol) in zip(reversed(bits), reversed(steps), strict=True):
        found = symbol.gather(1, place)
        path.append((found >> torch.arange(k)) & 1)
        place = parent.gather(1, place)
    # Collected backwards, each symbol with its last bit first.
    string = torch.cat(path, 1).flip(1).to(torch.uint8)
    return (string.view(rows, -1, 8) << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)
