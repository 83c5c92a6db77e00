"""The Triton kernels against the reference, under Triton's interpreter unless TRITON_INTERPRET=0."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tailorbird.errors import UsageError
from tailorbird.formats import BitPlanes, PlaneSpec, PlaneSum, SumSpec, Term
from tailorbird.kernels.matrix import Run
from tailorbird.kernels.triton_matrix import TritonMatrix
from tailorbird.runtime.modules import PackedLinear, held_bytes, pack_module
from tailorbird.runtime.weights import TritonWeight

triton_kernels: Any = pytest.importorskip("tailorbird.kernels.triton_kernels", reason="Triton is not installed")

DEVICE = torch.device("cpu" if triton_kernels.INTERPRETED else "cuda")
OFFSETS = ("none", "integer", "float")
SCALES = ("fp16", "u8")


def laid_out(planes: BitPlanes) -> TritonMatrix:
    planes = planes.to(DEVICE)
    return TritonMatrix.from_arrays(planes.rows, planes.spec.bits, planes.spec.group_size, planes.arrays)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def relative(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Error against float64, in units of what the sums would be if nothing cancelled."""
    found, x, weight = (t.double().cpu() for t in (found, x, weight))
    return float((found - x @ weight.T).norm() / (x.abs() @ weight.abs().T).norm().clamp_min(1e-30))


@settings(max_examples=40)
@given(st.data(), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([1, 3, 17]))
def test_any_format_equals_the_reference(
    specs: Any, packed: Any, data: st.DataObject, rows: int, seed: int, n: int
) -> None:
    planes, _ = packed(rows, data.draw(specs()), seed)
    matrix, dense, x = laid_out(planes), planes.dequantize(), normal(n, planes.spec.cols, seed=seed)
    assert matrix.shape == planes.shape
    assert relative(matrix.matmul(x), x, dense) < 1e-5
    assert torch.equal(matrix.matmul(x), matrix.matmul(x))
    ids = torch.randint(0, rows, (2, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(matrix.gather(ids.to(DEVICE)).cpu(), dense[ids])


@given(st.data(), st.integers(1, 40), st.integers(0, 2**31))
def test_the_stored_arrays_come_back(specs: Any, packed: Any, data: st.DataObject, rows: int, seed: int) -> None:
    planes, _ = packed(rows, data.draw(specs()), seed)
    back = laid_out(planes).arrays()
    assert set(back) == set(planes.arrays)
    assert all(torch.equal(back[name].cpu(), array) for name, array in planes.arrays.items())


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 3, 17])
def test_accuracy_by_bits(packed: Any, bits: int, n: int) -> None:
    """Rows long enough to be split, more rows than a tile, in every kind of grid."""
    offset, scale = list(itertools.product(OFFSETS, SCALES))[bits % 6]
    planes, _ = packed(37, PlaneSpec.uniform(bits, 512, 64, offset, scale), bits)
    matrix, dense, x = laid_out(planes), planes.dequantize(), normal(n, 512)
    words = 512 // 32
    assert triton_kernels.share(37, words, n, 4) < words
    exact = planes.matmul(x.cpu())
    assert (matrix.matmul(x).cpu() - exact).norm() < 1e-5 * exact.norm()
    assert relative(matrix.matmul(x), x, dense) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [3, 17])
def test_any_float_and_any_strides(packed: Any, dtype: torch.dtype, n: int) -> None:
    planes, _ = packed(20, PlaneSpec((2, 5, 2, 3), 16), 1)
    matrix, dense = laid_out(planes), planes.dequantize()
    x = normal(64, n, 2).to(dtype)[:, :, 1].T
    assert not x.is_contiguous()
    found = matrix.matmul(x[None])
    assert found.dtype == dtype and found.shape == (1, n, 20)
    assert relative(found, x, dense) < (1e-6 if dtype == torch.float64 else 1e-2)
    assert torch.equal(matrix.matmul(x.contiguous()), found[0])
    assert relative(matrix.matmul(x[0]), x[:1], dense) < 1e-2


def test_empty_and_single(packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    x = normal(3, 32)
    assert matrix.matmul(x[:0]).shape == (0, 20)
    assert matrix.matmul(x[0]).shape == (20,)
    assert matrix.gather(torch.zeros(0, 2, dtype=torch.int64, device=DEVICE)).shape == (0, 2, 32)
    one = torch.tensor(3, dtype=torch.int32, device=DEVICE)
    assert torch.equal(matrix.gather(one), matrix.gather(one[None])[0])
    strange = torch.tensor([-1, 20, 2**62], device=DEVICE)
    assert torch.equal(matrix.gather(strange), torch.zeros(3, 32, device=DEVICE))


def test_runs_over_the_same_columns_add_up() -> None:
    """Residual and split binary."""
    generator = torch.Generator().manual_seed(0)
    weight, runs = torch.zeros(20, 3 * 40), []
    for groups in ([0, 1, 2], [2, 0]):
        codes = torch.randint(0, 2, (20, len(groups) * 40), generator=generator, dtype=torch.uint8)
        scales = (torch.rand(20, len(groups), generator=generator) + 0.1).half()
        runs.append(Run(bits=1, groups=groups, codes=codes.to(DEVICE), scales=scales.to(DEVICE)))
        columns = torch.cat([torch.arange(40) + g * 40 for g in groups])
        weight[:, columns] += (codes - 0.5) * scales.float().repeat_interleave(40, 1)
    matrix = TritonMatrix.from_runs(20, 3, 40, runs)
    assert torch.allclose(matrix.gather(torch.arange(20, device=DEVICE)).cpu(), weight, rtol=0, atol=1e-6)
    for n in (2, 17):
        x = normal(n, 120)
        assert relative(matrix.matmul(x), x, weight) < 1e-6
    with pytest.raises(UsageError, match="no canonical arrays"):
        matrix.arrays()
    with pytest.raises(UsageError, match="codes are"):
        TritonMatrix.from_runs(21, 3, 40, runs)


@pytest.mark.parametrize("order", [False, True])
def test_a_sum_of_packed_weights(packed: Any, order: bool) -> None:
    """Terms that cover different groups: product, rows and the stored arrays."""
    terms = (
        Term(PlaneSpec((1, 1, 1), 24, "none"), (True, True, True)),
        Term(PlaneSpec((2, 1), 24, "integer"), (True, False, True)),
        Term(PlaneSpec((1,), 24, "float", "fp16"), (False, True, False)),
    )
    spec = SumSpec(terms, order)
    planes = [packed(9, term.spec, seed)[0] for seed, term in enumerate(terms)]
    weight = PlaneSum.pack(planes, spec, torch.arange(72).flip(0).to(torch.int32)).to(DEVICE)
    matrix, dense = weight.lay_out(TritonMatrix), weight.dequantize()
    assert torch.allclose(matrix.gather(torch.arange(9, device=DEVICE)), dense, rtol=0, atol=1e-5)
    for n in (2, 17):
        x = normal(n, 72)
        assert relative(matrix.matmul(x), x, dense) < 1e-6
    back = matrix.arrays()
    assert set(back) == set(weight.arrays)
    assert all(torch.equal(back[name], array) for name, array in weight.arrays.items())


def test_bad_arguments(packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    bad = (normal(2, 31), torch.ones(2, 32, dtype=torch.int64), torch.tensor(1.0), torch.empty(2, 32, device="meta"))
    for x in bad:
        with pytest.raises(UsageError, match="the weight is"):
            matrix.matmul(x)
    for ids in (torch.tensor([0.0], device=DEVICE), torch.empty(1, dtype=torch.int64, device="meta")):
        with pytest.raises(UsageError, match="ids are"):
            matrix.gather(ids)


def test_the_memory_it_takes(packed: Any) -> None:
    """Usual shapes need no padding: codes, scales and zero points as in the file, zero points in whole bytes."""
    planes, _ = packed(64, PlaneSpec.uniform(3, 256, 64), 1)
    sizes = {name: array.nbytes for name, array in planes.arrays.items()}
    assert laid_out(planes).nbytes == sizes["planes"] + sizes["scales"] + sizes["row_scales"] + 64 * 4


@pytest.mark.parametrize("rows", [1, 64, 100, 14336])
@pytest.mark.parametrize("n", [1, 2, 8, 9, 16, 300])
def test_every_word_has_a_program(rows: int, n: int) -> None:
    assert triton_kernels.width(n) >= min(n, 128)
    for count in (1, 3, 128, 448):
        for processors in (1, 132):
            share = triton_kernels.share(rows, count, n, processors)
            assert 1 <= share <= count and share >= min(count, 4)
            assert math.ceil(count / share) * share >= count


@pytest.mark.parametrize("n", range(1, 20))
def test_there_is_a_tile_for_every_number_of_rows(n: int) -> None:
    """Without tensor cores at most 64 products for each of a warp's 32 threads; with them any tile."""
    found = triton_kernels.fitting(triton_kernels.CONFIGS, {}, N=triton_kernels.width(n), DOT=n > 8, BITS=2)
    assert found and (n <= 8 or found == triton_kernels.CONFIGS)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed weights are taken for some on a GPU."""
    monkeypatch.setattr("tailorbird.runtime.modules.native", lambda planes: TritonWeight(planes.to(DEVICE)))


@torch.no_grad()
def test_layers_on_a_gpu(on_gpu: None, packed: Any) -> None:
    planes, _ = packed(24, PlaneSpec((2, 4), 16), 0)
    layer: Any = nn.Linear(32, 24, device=DEVICE)
    pack_module(layer, planes)
    assert isinstance(layer, PackedLinear) and isinstance(layer.native, TritonWeight)
    x = normal(2, 3, 32)
    wanted = planes.matmul(x.cpu()) + layer.bias.cpu()
    torch.testing.assert_close(layer(x).cpu(), wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(layer.state_dict()[name].cpu(), array) for name, array in planes.arrays.items())
    assert held_bytes(layer) == layer.native.nbytes + 24 * 4
    other: Any = nn.Linear(32, 24, device=DEVICE)
    pack_module(other, packed(24, PlaneSpec((2, 4), 16), 1)[0])
    other.load_state_dict(copy.deepcopy(layer).state_dict())
    assert torch.equal(other(x), layer(x))
    embedding: Any = nn.Embedding(24, 32, device=DEVICE)
    pack_module(embedding, layer.native)
    ids = torch.tensor([[0, 23]], device=DEVICE)
    assert torch.equal(embedding(ids).cpu(), planes.gather(ids.cpu()))


def test_gradients_pass_through(on_gpu: None, packed: Any) -> None:
    planes, _ = packed(24, PlaneSpec((2, 4), 16), 0)
    layer: Any = nn.Linear(32, 24, bias=False, device=DEVICE)
    pack_module(layer, planes)
    x = normal(2, 32).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), planes.dequantize().sum(0).expand(2, 32))
