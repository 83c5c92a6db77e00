"""Modules from memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tailorbird.anatomy import Anatomy, Model, Part
from tailorbird.errors import ModelError


class Net(nn.Module):
    """Linear layers, one used under two names, a norm, a convolution and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.inner = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8, bias=False))
        self.again = self.inner[1]
        self.conv = nn.Conv1d(1, 1, 3)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.again(self.inner(self.first(x)) + self.shift))


def test_parts_of_a_module() -> None:
    model = Model.wrap(Net())
    assert model.parts == [Part("first", (8, 6), "other", 0), Part("inner.1", (8, 8), "other", 0)]
    assert model.blocks == [""]
    assert set(model.kept()) == {"first.bias", "inner.0.weight", "inner.0.bias", "conv.weight", "conv.bias", "shift"}
    assert not model.tied


def test_the_users_module_stays_as_it_is() -> None:
    module = Net().train()
    before = copy.deepcopy(module.state_dict())
    model = Model.wrap(module)
    model.fill("", {"first": torch.zeros(8, 6)})
    model.drop("")
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(parameter.is_meta for parameter in module.parameters())


def test_a_filled_module_computes_with_the_weights_it_was_given() -> None:
    module, x = Net().eval(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    model = Model.wrap(module)
    model.fill("")
    with torch.no_grad():
        assert torch.equal(model.module(x), module(x))
        new = {"first": torch.full((8, 6), 0.25), "inner.1": torch.eye(8)}
        model.fill("", new)
        module.first.weight.copy_(new["first"])
        module.again.weight.copy_(new["inner.1"])
        assert torch.equal(model.module(x), module(x))


def test_fingerprints_tell_weights_apart() -> None:
    module = Net()
    first = Model.wrap(module).fingerprint()
    assert Model.wrap(copy.deepcopy(module)).fingerprint() == first
    with torch.no_grad():
        module.conv.bias.add_(1)
    assert Model.wrap(module).fingerprint() != first


def test_a_module_without_linear_layers() -> None:
    with pytest.raises(ModelError, match="LayerNorm has no linear layers") as caught:
        Model.wrap(nn.LayerNorm(3))
    assert caught.value.hint


def test_weights_that_are_no_numbers() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"'0\.weight'"):
        Model.wrap(module).read("0.weight")


def test_an_anatomy_of_ones_own() -> None:
    module = nn.ModuleDict(
        {
            "words": nn.Embedding(7, 4),
            "tower": nn.ModuleList(nn.ModuleDict({"mix": nn.Linear(4, 4)}) for _ in range(2)),
            "out": nn.Linear(4, 7, bias=False),
            "aside": nn.Linear(4, 4),
        }
    )
    mine = Anatomy("mine", ("mine",), "tower", "words", "out", {"mix": "mlp"})
    model = Model.wrap(module, mine)
    assert [(part.name, part.role, part.block) for part in model.parts] == [
        ("words", "embedding", None),
        ("tower.0.mix", "mlp", 0),
        ("tower.1.mix", "mlp", 1),
        ("out", "head", None),
    ]
    assert "aside.weight" in model.kept()


def test_a_bare_layer_has_no_name() -> None:
    with pytest.raises(ModelError, match="bare Linear") as caught:
        Model.wrap(nn.Linear(4, 4))
    assert "nn.Sequential" in caught.value.hint
    assert [part.name for part in Model.wrap(nn.Sequential(nn.Linear(4, 4))).parts] == ["0"]
