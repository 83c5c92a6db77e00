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


def planes(weight: torch.Tensor, scale: Any = "u8") -> BitPlanes:
    spec = PlaneSpec.uniform(3, weight.shape[1], 8, scale=scale)
    return sweep(weight.detach(), spec, minmax).pack()


class Scaled(nn.Embedding):
    """As Gemma's: the look-up of the class above, times a number in the weight's dtype."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * torch.tensor(3.0).to(self.weight.dtype)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear(bias: bool) -> None:
    layer = nn.Linear(16, 40, bias=bias)
    packed = planes(layer.weight)
    dense = copy.deepcopy(layer)
    dense.weight = nn.Parameter(packed.dequantize())
    pack_module(layer, packed)
    assert isinstance(layer, PackedLinear)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-6 if bias else 0)
    assert [name for name, _ in layer.named_parameters()] == (["bias"] if bias else [])
    assert held_bytes(layer) == packed.nbytes + (160 if bias else 0)


@torch.no_grad()
def test_embedding_keeps_what_its_class_does() -> None:
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
    assert "meta" in repr(layer.weight)
    for use in (
        lambda: nn.functional.linear(torch.randn(1, 16), layer.weight),
        lambda: torch.randn(1, 16) @ layer.weight.T,
        lambda: nn.functional.embedding(torch.tensor([1]), layer.weight),
        lambda: layer.weight.sum(),
    ):
        with pytest.raises(ModelError, match="values of a packed weight"):
            use()


@torch.no_grad()
def test_changing_the_modules_dtype_leaves_codes_and_scales_alone() -> None:
    layer = nn.Linear(16, 8)
    packed = planes(layer.weight, "fp16")
    pack_module(layer, packed)
    x = torch.randn(1, 16)
    before = layer(x)
    layer.double().bfloat16().float()
    assert all(torch.equal(array, getattr(layer, name)) for name, array in packed.arrays.items())
    assert getattr(layer, "scales").dtype == torch.float16  # noqa: B009
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-2)  # the bias was rounded
    assert layer.double()(x.double()).dtype == torch.float64


def test_shared_arrays_count_once() -> None:
    embedding, head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
    packed = planes(head.weight)
    pack_module(embedding, packed)
    pack_module(head, packed)
    assert held_bytes(nn.ModuleList([embedding, head])) == packed.nbytes


def test_what_does_not_fit_is_refused() -> None:
    layer = nn.Linear(16, 8)
    with pytest.raises(ModelError, match="packed one"):
        pack_module(layer, planes(torch.randn(9, 16)))
    with pytest.raises(ModelError, match="LayerNorm can't hold"):
        pack_module(nn.LayerNorm(16), planes(torch.randn(8, 16)))
    pack_module(layer, planes(layer.weight))
    with pytest.raises(ModelError, match="can't hold"):
        pack_module(layer, planes(torch.randn(8, 16)))
