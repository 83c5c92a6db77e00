"""Packed weights in an ONNX graph: `MatMulNBits` for products, `GatherBlockQuantized` for rows of a table.

Both are operators of ONNX Runtime (domain com.microsoft) over codes of 2, 4 or 8 bits, a bitstream along the row, with
a float32 scale and an integer zero point for every block of columns. Groups of different bits become one node for
each width, over the columns of that width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.folder import CHUNK
from tailorbird.artifact.onnx.graph import MICROSOFT, Graph
from tailorbird.artifact.reader import Artifact
from tailorbird.formats import PlaneSpec, Spec, bit_planes, plane_spec
from tailorbird.formats.integers import Integers, bitstream, integers

# Blocks of these many columns have kernels at every width of bits.
SMALLEST, LARGEST = 16, 128


@dataclass(frozen=True)
class Run:
    """Groups of a part that are stored in one width of bits, and the columns they cover, in stored order."""

    bits: int
    groups: list[int]
    columns: Tensor


def width(bits: int) -> int:
    """The narrowest of 2, 4 and 8 that holds a code of `bits` bits."""
    return next(wide for wide in (2, 4, 8) if bits <= wide)


def packable(cols: int, spec: Spec) -> bool:
    """The operators can hold such a row; others are stored as plain numbers."""
    return cols % SMALLEST == 0 and isinstance(spec, PlaneSpec) and spec.group_size % SMALLEST == 0


def runs(spec: PlaneSpec, order: Tensor | None) -> list[Run]:
    """The nodes a part needs."""
    found: dict[int, list[int]] = {}
    for group, bits in enumerate(spec.bits):
        found.setdefault(width(bits), []).append(group)
    columns = torch.arange(spec.cols) if order is None else order.long()
    grouped = columns.view(len(spec.bits), spec.group_size)
    return [Run(bits, groups, grouped[groups].flatten()) for bits, groups in sorted(found.items())]


class Weights:
    """The weights of an artifact in a graph, each stored once.

    Args:
        graph: where they go.
        artifact: where they come from.
        accuracy: ``accuracy_level`` of products: 4 rounds activations to 8 bits, 1 keeps them float32.
    """

    def __init__(self, graph: Graph, artifact: Artifact, accuracy: int) -> None:
        self.graph, self.artifact, self.accuracy = graph, artifact, accuracy
        self.parts = {name: part for part in artifact.plan.parts for name in (part.name, *part.tied)}

    def product(self, x: str, layer: str) -> str:
        """``x @ W.T`` of a layer, with its bias; x of shape (batch, length, columns)."""
        part = self.parts[layer]
        if not self._packed(part):
            y = self.graph.add("MatMul", x, self.graph.add("Transpose", self._plain(part), perm=[1, 0]))
        else:
            y = self._sum(x, part)
        bias = f"{layer}.bias"
        if bias not in self.artifact.tensors:
            return y
        return self.graph.add("Add", y, self.graph.constant(self.artifact.read(bias).float(), bias))

    def rows(self, ids: str, layer: str) -> str:
        """Rows of a layer's weight by index: (..., columns)."""
        part = self.parts[layer]
        if not self._packed(part):
            return self.graph.add("Gather", self._plain(part), ids, axis=0)
        pieces, columns = [], []
        for number, run in enumerate(self._runs(part)):
            codes, scale, zeros, block = self._arrays(part, number, run)
            cols = len(run.columns)
            table = self.graph.shared(f"{codes}.rows", codes, (part.shape[0], cols * run.bits // 8))
            piece = self.graph.add(
                "GatherBlockQuantized",
                *[table, ids, scale, *zeros],
                domain=MICROSOFT,
                bits=run.bits,
                block_size=block,
                gather_axis=0,
                quantize_axis=1,
            )
            pieces.append(piece)
            columns.append(run.columns)
        whole = self.graph.add("Concat", *pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        return self._taken(whole, torch.argsort(torch.cat(columns)))

    def _sum(self, x: str, part: Part) -> str:
        rows, total = part.shape[0], ""
        for number, run in enumerate(self._runs(part)):
            codes, scale, zeros, block = self._arrays(part, number, run)
            piece = self.graph.add(
                "MatMulNBits",
                *[self._taken(x, run.columns, part.shape[1]), codes, scale, *zeros],
                domain=MICROSOFT,
                K=len(run.columns),
                N=rows,
                bits=run.bits,
                block_size=block,
                accuracy_level=self.accuracy,
            )
            total = self.graph.add("Add", total, piece) if total else piece
        return total

    def _taken(self, x: str, columns: Tensor, whole: int | None = None) -> str:
        """Columns of x, where they are not simply all in order."""
        if torch.equal(columns, torch.arange(whole or len(columns))):
            return x
        return self.graph.add("Gather", x, self.graph.constant(columns), axis=-1)

    def _packed(self, part: Part) -> bool:
        return packable(part.shape[1], self.artifact.plan.specs[part.name])

    def _runs(self, part: Part) -> list[Run]:
        spec = plane_spec(self.artifact.plan.specs[part.name])
        order = self.artifact.planes(part.name, 0, 1).arrays["column_order"] if spec.column_order else None
        return runs(spec, order)

    def _arrays(self, part: Part, number: int, run: Run) -> tuple[str, str, list[str], int]:
        """Names of codes, scales and zero points (none or one) of a run, and the block they are for."""
        spec = plane_spec(self.artifact.plan.specs[part.name])
        # The largest power of two that divides a group: where that is smaller, its scale is repeated.
        block = min(LARGEST, spec.group_size & -spec.group_size)
        repeat, rows, blocks = spec.group_size // block, part.shape[0], len(run.columns) // block
        name = f"{part.name}.{number}"
        symmetric = spec.offset == "none" or all(spec.bits[group] == 1 for group in run.groups)
        zeros = [] if symmetric else [f"{name}.zeros"]
        if f"{name}.codes" not in self.graph.initializers:

            def each(make: Callable[[Integers], Tensor]) -> Iterator[Tensor]:
                step = max(1, CHUNK // spec.cols)
                for low in range(0, rows, step):
                    planes = bit_planes(self.artifact.planes(part.name, low, min(low + step, rows)))
                    yield make(integers(planes, run.bits, run.groups))

            shape = (rows, blocks, block * run.bits // 8)
            self.graph.stream(f"{name}.codes", shape, torch.uint8, each(lambda w: bitstream(w.codes, run.bits)))
            scales = each(lambda w: w.scale.repeat_interleave(repeat, 1))
            self.graph.stream(f"{name}.scales", (rows, blocks), torch.float32, scales)
            if zeros:
                size = (rows, -(-blocks * run.bits // 8))
                points = each(lambda w: bitstream(_some(w.zeros).repeat_interleave(repeat, 1), run.bits))
                self.graph.stream(zeros[0], size, torch.uint8, points)
        return f"{name}.codes", f"{name}.scales", zeros, block

    def _plain(self, part: Part) -> str:
        if part.tensor not in self.graph.initializers:
            step = max(1, CHUNK // part.shape[1])
            rows = (self.artifact.read_rows(part.tensor, low, low + step) for low in range(0, part.shape[0], step))
            self.graph.stream(part.tensor, part.shape, torch.float32, rows)
        return part.tensor


def _some(zeros: Tensor | None) -> Tensor:
    assert zeros is not None
    return zeros
