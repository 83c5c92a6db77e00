from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.anatomy import Model
from tailorbird.errors import ModelError, UsageError
from tailorbird.runtime.load import load, load_into
from tailorbird.runtime.modules import Packed, PackedLinear
from tailorbird.runtime.weights import NativeWeight
from tailorbird.tasks.language import evaluate

FAMILIES = ["llama", "llama-untied", "gemma2", "gemma3", "opt"]


def some_ids() -> torch.Tensor:
    return torch.randint(0, 320, (3, 20), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_gives_what_transformers_gives(make_model: Any, family: str) -> None:
    folder, module = make_model(family)
    model = load(folder)
    with torch.no_grad():
        expected = module(input_ids=some_ids()).logits
    assert torch.equal(model.logits(some_ids()), expected)
    assert torch.equal(model.logits(some_ids(), keep=4), expected[:, -4:])
    assert model.nbytes == sum(p.numel() * 4 for p in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_unpacked(make_packed: Any, family: str, kernels: str) -> None:
    source = make_packed(family)
    packed, dense = load(source, activations="fp32"), load(source, dense=True)
    # A bias is added in one step or in two; native kernels add in another order.
    exact = kernels == "reference" and family not in ("opt", "llama-untied")
    torch.testing.assert_close(packed.logits(some_ids()), dense.logits(some_ids()), rtol=0, atol=0 if exact else 1e-5)
    layers = {name: layer for name, layer in packed.module.named_modules() if isinstance(layer, Packed)}
    assert set(layers) == {name for part in source.plan.parts for name in (part.name, *part.tied)}


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_8_bits_move_the_logits_little(make_packed: Any, family: str) -> None:
    source = make_packed(family)
    dense = load(source, dense=True).logits(some_ids())
    error = load(source).logits(some_ids()) - dense
    assert 0 < error.norm() < 0.03 * dense.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_packed_bytes_and_what_is_kept(make_packed: Any, family: str, kernels: str) -> None:
    source = make_packed(family)
    kept = sum(source.model.read(name).numel() * 4 for name in source.model.kept())
    stored = sum(planes.nbytes for planes in source.packed.values())
    laid_out = sum(NativeWeight(planes).nbytes for planes in source.packed.values())
    assert load(source).nbytes == kept + (stored if kernels == "reference" else laid_out)


def test_a_tied_head_holds_the_embeddings_layout(make_packed: Any) -> None:
    module = load(make_packed("gemma3")).module
    embedding, head = module.get_submodule("model.embed_tokens"), module.get_submodule("lm_head")
    assert isinstance(embedding, Packed) and isinstance(head, Packed)
    assert embedding.native is not None and embedding.native is head.native


@pytest.mark.usefixtures("reference")
def test_a_tied_head_holds_the_embeddings_arrays(make_packed: Any) -> None:
    module = load(make_packed("gemma3")).module
    embedding, head = module.get_submodule("model.embed_tokens"), module.get_submodule("lm_head")
    assert isinstance(embedding, Packed) and isinstance(head, Packed)
    for name, array in embedding.packed.arrays.items():
        assert head.packed.arrays[name] is array


@pytest.mark.parametrize("family", ["llama-untied", "gemma2"])
def test_running_and_evaluating_agree(make_packed: Any, family: str) -> None:
    source = make_packed(family)
    windows = some_ids()
    chances = load(source, activations="fp32").logits(windows)[:, :-1].double().log_softmax(-1)
    nll = -chances.gather(-1, windows[:, 1:, None]).mean().item()
    assert evaluate(Model.open(source), windows).nll == pytest.approx(nll, rel=1e-5)


def test_texts_too_long_are_refused(make_model: Any) -> None:
    with pytest.raises(UsageError, match="65 tokens are more than the 64"):
        load(make_model("llama")[0]).logits(torch.zeros(1, 65, dtype=torch.int64))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(tmp_path / "none")


class Net(nn.Module):
    """A module of linear layers that is no language model."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu())


@torch.no_grad()
def test_into_a_module_of_the_users(pack_any: Any) -> None:
    trained = Net()
    source = pack_any(trained)
    dense = Net()
    dense.load_state_dict({name: source.read(name) for name in trained.state_dict()})
    fresh = Net()
    assert load_into(fresh, source, activations="fp32") is fresh
    assert isinstance(fresh.first, PackedLinear) and isinstance(fresh.last, PackedLinear)
    x = torch.randn(5, 16)
    torch.testing.assert_close(fresh(x), dense(x), rtol=0, atol=1e-6)


def test_a_module_that_does_not_fit_stays_as_it_was(pack_any: Any) -> None:
    source = pack_any(Net())
    for module in (Net(32), nn.Sequential(nn.Linear(16, 24))):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(ModelError, match="has a tensor"):
            load_into(module, source)
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
