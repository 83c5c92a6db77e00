"""Which kernels hold a weight, by its device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.grid import Grid
from tailorbird.kernels import triton_matrix
from tailorbird.kernels.native import SlowKernelsWarning
from tailorbird.runtime.modules import pack_module
from tailorbird.runtime.weights import NativeWeight, TritonWeight, native


def planes() -> BitPlanes:
    spec = PlaneSpec.uniform(3, 16, 8)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (24, 16), generator=generator, dtype=torch.uint8)
    scale = torch.rand(24, 2, generator=generator) + 0.1
    return BitPlanes.pack(codes, Grid.store(scale, -3 * scale, spec), spec)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As if arrays on the CPU were on a GPU, and Triton there or not."""
    monkeypatch.setattr(BitPlanes, "device", property(lambda _: torch.device("cuda")))
    return lambda there: monkeypatch.setattr(triton_matrix, "find_spec", lambda _: object() if there else None)


def test_the_device_decides(on_gpu: Any) -> None:
    on_gpu(True)
    triton_matrix.available.cache_clear()
    weight = native(planes())
    assert isinstance(weight, TritonWeight)
    back = weight.planes().arrays
    assert all(torch.equal(back[name], array) for name, array in planes().arrays.items())


def test_without_triton_the_reference_serves_after_a_warning(on_gpu: Any) -> None:
    on_gpu(False)
    triton_matrix.available.cache_clear()
    with pytest.warns(SlowKernelsWarning, match="Triton is missing"):
        assert native(planes()) is None
    assert native(planes()) is None
    triton_matrix.available.cache_clear()


def test_a_weight_that_moves_stays_shared() -> None:
    weight = NativeWeight(planes())
    head: Any = nn.Linear(16, 24, bias=False)
    embedding: Any = nn.Embedding(24, 16)
    pack_module(head, weight)
    pack_module(embedding, weight)
    assert head.to("cpu").native is weight
    there = TritonWeight(planes())
    weight._moved[torch.device("meta")] = there
    nn.ModuleList([head, embedding]).to("meta")
    assert head.native is there and embedding.native is there
