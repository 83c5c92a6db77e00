"""Packed weights in memory: laid out for the native kernels where there are any, else as they are stored."""

from __future__ import annotations

from torch import Tensor

from tailorbird.formats import BitPlanes
from tailorbird.kernels.matrix import Activations, PackedMatrix, fits
from tailorbird.kernels.native import available
from tailorbird.kernels.ops import number, packed_gather, packed_matmul


class NativeWeight:
    """A packed weight that only the native kernels hold; layers that share a weight share this."""

    def __init__(self, planes: BitPlanes) -> None:
        spec = planes.spec
        self.rows, self.spec = planes.rows, spec
        self.matrix = PackedMatrix.from_arrays(planes.rows, spec.bits, spec.group_size, planes.arrays)
        self._number = number(self.matrix)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.matrix.nbytes

    def __deepcopy__(self, memo: object) -> NativeWeight:
        """The same: it never changes."""
        return self

    def planes(self) -> BitPlanes:
        """The weight as it is stored, bit for bit, made anew."""
        return BitPlanes(self.rows, self.spec, self.matrix.arrays())

    def matmul(self, x: Tensor, activations: Activations) -> Tensor:
        """``x @ W.T``; see `PackedMatrix.matmul`."""
        return packed_matmul(x, self._number, activations)

    def gather(self, ids: Tensor) -> Tensor:
        """Rows by index; see `PackedMatrix.gather`."""
        return packed_gather(ids, self._number)


def native(planes: BitPlanes) -> NativeWeight | None:
    """Lay out a weight for the native kernels; none if there are none, or they can't hold it."""
    return NativeWeight(planes) if available() and fits(planes.spec.group_size, planes.spec.cols) else None
