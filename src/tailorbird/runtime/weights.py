"""Packed weights in memory: laid out for the kernels of their device where there are any, else as they are stored."""

from __future__ import annotations

from typing import ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tailorbird.formats import PackedWeight
from tailorbird.kernels import triton_matrix
from tailorbird.kernels.matrix import Activations, PackedMatrix
from tailorbird.kernels.native import available
from tailorbird.kernels.ops import number, packed_gather, packed_matmul
from tailorbird.kernels.rows import RowMatrix
from tailorbird.kernels.triton_matrix import TritonMatrix


class LaidOutWeight:
    """A packed weight that only a matrix of some kernels holds; layers that share a weight share this."""

    layout: ClassVar[type[PackedMatrix] | type[TritonMatrix]]
    matrix: PackedMatrix | TritonMatrix | RowMatrix

    def __init__(self, planes: PackedWeight) -> None:
        self.rows, self.spec, self.device = planes.rows, planes.spec, planes.device
        self.matrix = planes.lay_out(self.layout)
        self._number = number(self.matrix)
        self._moved: WeakValueDictionary[torch.device, LaidOutWeight | PackedWeight] = WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.matrix.nbytes

    def __deepcopy__(self, memo: object) -> LaidOutWeight:
        """The same: it never changes."""
        return self

    def planes(self) -> PackedWeight:
        """The weight as it is stored, bit for bit, made anew."""
        return self.spec.plan(self.rows).with_arrays(self.matrix.arrays())

    def to(self, device: torch.device) -> LaidOutWeight | PackedWeight:
        """The weight on another device; the same for every layer that shares it."""
        found = self._moved.get(device)
        if found is None:
            planes = self.planes().to(device)
            found = self._moved[device] = native(planes) or planes
        return found

    def matmul(self, x: Tensor, activations: Activations) -> Tensor:
        """``x @ W.T``; see `PackedMatrix.matmul`."""
        return packed_matmul(x, self._number, activations)

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index; see `PackedMatrix.gather`."""
        return packed_gather(ids, self._number)


class NativeWeight(LaidOutWeight):
    """On the CPU, for the compiled kernels."""

    layout = PackedMatrix
    matrix: PackedMatrix | RowMatrix


class TritonWeight(LaidOutWeight):
    """On a GPU, for the Triton kernels."""

    layout = TritonMatrix
    matrix: TritonMatrix | RowMatrix


def native(planes: PackedWeight) -> LaidOutWeight | None:
    """Lay out a weight for the kernels of its device; none if there are none, or they can't hold it."""
    place = planes.device.type
    if place not in ("cuda", "cpu") or not (triton_matrix.available() if place == "cuda" else available()):
        return None
    kind: type[LaidOutWeight] = TritonWeight if place == "cuda" else NativeWeight
    return kind(planes) if planes.fits(kind.layout) else None
