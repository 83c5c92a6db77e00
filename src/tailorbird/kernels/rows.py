"""`RowMatrix`: a weight whose rows lie in several matrices, each with a format of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.kernels.matrix import Activations, PackedMatrix
from tailorbird.kernels.reference import pack_bits, unpack_bits
from tailorbird.kernels.triton_matrix import TritonMatrix

MAP = "classes"


class RowMatrix:
    """A weight of shape (rows, cols) whose rows are those of some matrices of the same device.

    Args:
        parts: the matrices.
        classes: which of them holds each row, uint8 (rows,); rows stand in a matrix in the order they have here.
    """

    def __init__(self, parts: Sequence[PackedMatrix | TritonMatrix], classes: Tensor) -> None:
        self.parts, self.classes = list(parts), classes
        self.places = places(classes, len(self.parts))
        # The rows of the whole that those of each matrix are, int64.
        self.rows = [(classes == k).nonzero()[:, 0] for k in range(len(self.parts))]
        if [len(mine) for mine in self.rows] != [part.shape[0] for part in self.parts]:
            raise UsageError("the classes don't fit the matrices", hint="give one class for every row of them")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return len(self.classes), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory, padding and the places of the rows included."""
        maps = [self.classes, self.places, *self.rows]
        return sum(part.nbytes for part in self.parts) + sum(a.numel() * a.element_size() for a in maps)

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self.classes.device

    def arrays(self) -> dict[str, Tensor]:
        """The canonical arrays, see `joined`, made anew."""
        return joined(self.classes, [part.arrays() for part in self.parts])

    def __deepcopy__(self, memo: object) -> RowMatrix:
        """The same: it never changes."""
        return self

    def matmul(self, x: Tensor, activations: Activations = "int8") -> Tensor:
        """``x @ W.T``: one product for each matrix, put where its rows are; see `PackedMatrix.matmul`."""
        outs = [part.matmul(x, activations) for part in self.parts]
        out = outs[0].new_empty((*x.shape[:-1], len(self.classes)))
        for mine, one in zip(self.rows, outs, strict=True):
            out[..., mine] = one
        return out

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index; see `PackedMatrix.gather`.

        Raises:
            IndexError: an id that is not a row; negative ones are none.
        """
        flat = ids.reshape(-1).long()
        if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < len(self.classes)):
            raise IndexError(f"an index is not a row of {len(self.classes)}")
        classes, places = self.classes[flat], self.places[flat]
        out = torch.empty(len(flat), self.shape[1], device=self.classes.device)
        for k, part in enumerate(self.parts):
            mine = (classes == k).nonzero()[:, 0]
            if len(mine):
                out[mine] = part.gather(places[mine].long())
        return out.reshape(*ids.shape, self.shape[1])


def joined(classes: Tensor, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The arrays of all classes under names of their own, and the map: uint8 (bits of a class * ceil(rows / 8),).

    Args:
        classes: uint8 (rows,), the class of every row; meta tensors give shapes.
        parts: the arrays of every class.
    """
    arrays = {MAP: pack_bits(classes[None], _map_bits(len(parts)))[0]}
    return arrays | {f"{name}_{k}": array for k, part in enumerate(parts) for name, array in part.items()}


def unpacked(stored: Tensor, count: int, rows: int) -> Tensor:
    """The class of every row, uint8 (rows,), from the map of `joined` with `count` classes."""
    return unpack_bits(stored[None], _map_bits(count), rows)[0].contiguous()


def places(classes: Tensor, count: int) -> Tensor:
    """Where each row stands among those of its class, int32 (rows,); classes is uint8 (rows,)."""
    out = torch.empty(len(classes), dtype=torch.int32, device=classes.device)
    for k in range(count):
        mine = (classes == k).nonzero()[:, 0]
        out[mine] = torch.arange(len(mine), dtype=torch.int32, device=classes.device)
    return out


def _map_bits(count: int) -> int:
    return max(1, (count - 1).bit_length())
