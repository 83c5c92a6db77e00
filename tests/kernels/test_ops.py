"""The operators: what torch's own checks of operators ask, and graphs without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tailorbird.errors import UsageError
from tailorbird.formats import PlaneSpec
from tailorbird.kernels import ops
from tailorbird.kernels.matrix import PackedMatrix


@pytest.fixture
def matrix(extension: Any, packed: Any) -> PackedMatrix:
    planes, _ = packed(24, PlaneSpec.uniform(3, 32, 8), 0)
    return PackedMatrix.from_arrays(24, planes.spec.bits, 8, planes.arrays)


def test_operators_equal_the_methods(matrix: PackedMatrix) -> None:
    x, ids, given = torch.randn(2, 3, 32), torch.tensor([[0, 23]]), ops.number(matrix)
    for mode in ("int8", "fp32"):
        assert torch.equal(ops.packed_matmul(x, given, mode), matrix.matmul(x, mode))
    assert torch.equal(ops.packed_gather(ids, given), matrix.gather(ids))


def test_torch_finds_nothing_wrong(matrix: PackedMatrix) -> None:
    given, tests = ops.number(matrix), ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.tailorbird.packed_matmul, (torch.randn(2, 32), given, "int8"), test_utils=tests)
    torch.library.opcheck(torch.ops.tailorbird.packed_gather, (torch.tensor([1, 2]), given), test_utils=tests)


def test_shapes_without_values(matrix: PackedMatrix) -> None:
    given = ops.number(matrix)
    with FakeTensorMode():
        x, ids = torch.empty(2, 5, 32, dtype=torch.bfloat16), torch.empty(4, 1, dtype=torch.int64)
        out, rows = ops.packed_matmul(x, given), ops.packed_gather(ids, given)
        assert (tuple(out.shape), out.dtype) == ((2, 5, 24), torch.bfloat16)
        assert (tuple(rows.shape), rows.dtype) == ((4, 1, 32), torch.float32)
        with pytest.raises(UsageError, match="33 columns"):
            ops.packed_matmul(torch.empty(2, 33), given)


def test_numbers_live_as_long_as_their_matrix(matrix: PackedMatrix, packed: Any) -> None:
    planes, _ = packed(3, PlaneSpec.uniform(3, 8, 8), 0)
    given = ops.number(PackedMatrix.from_arrays(3, planes.spec.bits, 8, planes.arrays))
    with pytest.raises(UsageError, match="no packed matrix"):
        ops.packed_matmul(torch.randn(1, 8), given)
