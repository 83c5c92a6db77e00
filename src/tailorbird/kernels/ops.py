"""The kernels as operators of torch, so that a traced or compiled graph can hold them.

``tailorbird::packed_matmul(x, matrix, activations)`` and ``tailorbird::packed_gather(ids, matrix)``; `matrix` is the
number that `number` gives a `PackedMatrix`, a `RowMatrix` or, for a GPU, a `TritonMatrix`. They have shapes for fake
and meta tensors, and no gradients.
"""

from __future__ import annotations

from itertools import count
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.kernels.matrix import Activations, PackedMatrix
from tailorbird.kernels.rows import RowMatrix
from tailorbird.kernels.triton_matrix import TritonMatrix

_matrices: WeakValueDictionary[int, PackedMatrix | TritonMatrix | RowMatrix] = WeakValueDictionary()
_numbers = count(1)
_library = torch.library.Library("tailorbird", "DEF")  # type: ignore[no-untyped-call]
_library.define("packed_matmul(Tensor x, int matrix, str activations) -> Tensor")  # type: ignore[no-untyped-call]
_library.define("packed_gather(Tensor ids, int matrix) -> Tensor")  # type: ignore[no-untyped-call]


def number(matrix: PackedMatrix | TritonMatrix | RowMatrix) -> int:
    """The number by which operators know a matrix; it is good for as long as somebody holds the matrix."""
    given = next(_numbers)
    _matrices[given] = matrix
    return given


def packed_matmul(x: Tensor, matrix: int, activations: Activations = "int8") -> Tensor:
    """`PackedMatrix.matmul` as an operator."""
    return cast(Tensor, torch.ops.tailorbird.packed_matmul(x, matrix, activations))


def packed_gather(ids: Tensor, matrix: int) -> Tensor:
    """`PackedMatrix.gather` as an operator."""
    return cast(Tensor, torch.ops.tailorbird.packed_gather(ids, matrix))


def _matrix(given: int) -> PackedMatrix | TritonMatrix | RowMatrix:
    try:
        return _matrices[given]
    except KeyError:
        raise UsageError(
            f"there is no packed matrix {given}", hint="hold the matrix while its number is used"
        ) from None


def _matmul(x: Tensor, matrix: int, activations: Activations) -> Tensor:
    return _matrix(matrix).matmul(x, activations)


def _gather(ids: Tensor, matrix: int) -> Tensor:
    return _matrix(matrix).gather(ids)


def _fake_matmul(x: Tensor, matrix: int, activations: str) -> Tensor:
    rows, cols = _matrix(matrix).shape
    if x.shape[-1] != cols:
        raise UsageError(f"x has {x.shape[-1]} columns, the weight {cols}", hint="give x of shape (..., columns)")
    return x.new_empty((*x.shape[:-1], rows))


def _fake_gather(ids: Tensor, matrix: int) -> Tensor:
    return ids.new_empty((*ids.shape, _matrix(matrix).shape[1]), dtype=torch.float32)


for _device in ("CPU", "CUDA"):
    _library.impl("packed_matmul", _matmul, _device)  # type: ignore[no-untyped-call]
    _library.impl("packed_gather", _gather, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("tailorbird::packed_matmul", _fake_matmul, lib=_library)
torch.library.register_fake("tailorbird::packed_gather", _fake_gather, lib=_library)
