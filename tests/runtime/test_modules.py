from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.errors import ModelError
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.runtime.modules import PackedEmbedding, PackedLinear, held_bytes, pack_module
from tailorbird.runtime.weights import native


def planes(weight: torch.Tensor, scale: Any = "u8") -> BitPlanes:
    spec = PlaneSpec.uniform(3, weight.shape[1], 8, scale=scale)
    return sweep(weight.detach(), spec, minmax).pack()


class Scaled(nn.Embedding):
    """As Gemma's: the look-up of the class above, times a number in the weight's dtype."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * torch.tensor(3.0).to(self.weight.dtype)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear(bias: bool, kernels: str) -> None:
    layer = nn.Linear(16, 40, bias=bias)
    packed = planes(layer.weight)
    dense = copy.deepcopy(layer)
    dense.weight = nn.Parameter(packed.dequantize())
    pack_module(layer, packed, "fp32")
    assert isinstance(layer, PackedLinear)
    x = torch.randn(2, 5, 16)
    exact = kernels == "reference" and not bias
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=0 if exact else 1e-6)
    assert [name for name, _ in layer.named_parameters()] == (["bias"] if bias else [])
    held = packed.nbytes if layer.native is None else layer.native.nbytes
    assert held_bytes(layer) == held + (160 if bias else 0)


@torch.no_grad()
def test_embedding_keeps_what_its_class_does(kernels: str) -> None:
    layer = Scaled(30, 16)
    packed = planes(layer.weight)
    pack_module(layer, packed)
    ids = torch.tensor([[0, 29], [7, 7]])
    assert torch.equal(layer(ids), packed.dequantize()[ids] * 3)
    assert isinstance(layer, Scaled) and isinstance(layer, PackedEmbedding)
    assert type(layer).__name__ == "PackedScaled"


def test_hooks_stay() -> None:
    layer = nn.Linear(16, 8)
    seen: list[int] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    pack_module(layer, planes(layer.weight))
    layer(torch.randn(1, 16))
    assert seen == [1]


def test_the_weight_is_a_stand_in_without_values() -> None:
    layer = nn.Linear(16, 8)
    pack_module(layer, planes(layer.weight))
    assert (layer.weight.shape, layer.weight.dtype, layer.weight.is_meta) == ((8, 16), torch.float32, True)
    assert repr(layer.weight) == "Valueless(..., size=(8, 16))"
    assert layer.weight.device.type == "cpu"
    for use in (
        lambda: nn.functional.linear(torch.randn(1, 16), layer.weight),
        lambda: torch.randn(1, 16) @ layer.weight.T,
        lambda: nn.functional.embedding(torch.tensor([1]), layer.weight),
        lambda: layer.weight.sum(),
    ):
        with pytest.raises(ModelError, match="values of a packed weight"):
            use()


@torch.no_grad()
def test_changing_the_modules_dtype_leaves_codes_and_scales_alone(kernels: str) -> None:
    layer = nn.Linear(16, 8)
    packed = planes(layer.weight, "fp16")
    pack_module(layer, packed)
    x = torch.randn(1, 16)
    before = layer(x)
    layer.double().bfloat16().float()
    after: Any = layer
    assert all(torch.equal(array, after.packed.arrays[name]) for name, array in packed.arrays.items())
    assert after.packed.arrays["scales"].dtype == torch.float16
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-2)  # the bias was rounded
    assert layer.double()(x.double()).dtype == torch.float64


def test_shared_weights_count_once(kernels: str) -> None:
    embedding, head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
    packed = planes(head.weight)
    shared = native(packed) or packed
    pack_module(embedding, shared)
    pack_module(head, shared)
    assert (shared is packed) == (kernels == "reference")
    assert held_bytes(nn.ModuleList([embedding, head])) == shared.nbytes


@torch.no_grad()
def test_state_is_the_stored_arrays_and_can_be_loaded(kernels: str) -> None:
    first, second = nn.Linear(16, 8), nn.Linear(16, 8)
    packed = planes(first.weight)
    pack_module(first, packed)
    pack_module(second, planes(second.weight))
    state = first.state_dict()
    assert set(state) == {*packed.arrays, "bias"}
    assert all(torch.equal(array, state[name]) for name, array in packed.arrays.items())
    second.load_state_dict(state)
    x = torch.randn(3, 16)
    assert torch.equal(second(x), first(x))
    assert torch.equal(copy.deepcopy(first)(x), first(x))


def test_leaving_the_cpu_brings_the_arrays_back() -> None:
    layer: Any = nn.Linear(16, 8)
    packed = planes(layer.weight)
    pack_module(layer, packed)
    layer.to("meta")
    assert layer.native is None and layer.packed.arrays["planes"].is_meta and layer.weight.device.type == "meta"
    assert layer.packed.nbytes == packed.nbytes


def test_gradients_pass_through(kernels: str) -> None:
    layer = nn.Linear(16, 8)
    packed = planes(layer.weight)
    pack_module(layer, packed)
    x = torch.randn(2, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, packed.dequantize().sum(0).expand(2, 16))


def test_what_does_not_fit_is_refused() -> None:
    layer = nn.Linear(16, 8)
    with pytest.raises(ModelError, match="packed one"):
        pack_module(layer, planes(torch.randn(9, 16)))
    with pytest.raises(ModelError, match="LayerNorm can't hold"):
        pack_module(nn.LayerNorm(16), planes(torch.randn(8, 16)))
    pack_module(layer, planes(layer.weight))
    with pytest.raises(ModelError, match="can't hold"):
        pack_module(layer, planes(torch.randn(8, 16)))
