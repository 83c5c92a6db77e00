"""A model run block by block is the model: the shell, and the stream of calibration data through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint
from tailorbird.kernels import dense
from tailorbird.measure.shell import Shell
from tailorbird.measure.stream import Stream

FAMILIES = [
    "llama", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "opt", "opt-untied",
    "opt-projected",
]  # fmt: skip
BOTH = frozenset({"gram", "inputs"})


def ids_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 90, shape, generator=torch.Generator().manual_seed(seed))


def opened(folder: Path) -> tuple[Model, Tensor]:
    model = Model.open(open_checkpoint(folder))
    return model, model.weight(model.parts[0])


def softcapped(model: Model, logits: Tensor) -> Tensor:
    cap = model.config.get("final_logit_softcapping")
    return cap * torch.tanh(logits / cap) if cap else logits


@torch.no_grad()
def logits_of(model: Model, shell: Shell, embedding: Tensor, ids: Tensor) -> Tensor:
    hidden = shell.enter(ids, lambda rows: embedding[rows])
    for i, name in enumerate(model.blocks):
        model.fill(name)
        hidden = shell.run(i, hidden)
        model.drop(name)
    head = embedding if model.tied else model.weight(model.parts[-1])
    return softcapped(model, shell.leave(hidden) @ head.T)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shell_is_the_model(family: str, make_model: Any) -> None:
    folder, module = make_model(family)
    model, embedding = opened(folder)
    shell = Shell(model)
    # Shapes come back after others, with other tokens: calls recorded for a shape hold for all batches of it.
    for seed, shape in enumerate([(2, 9), (1, 5), (3, 1), (2, 9)]):
        ids = ids_of(*shape, seed=seed)
        with torch.no_grad():
            wanted = module(ids).logits
        assert torch.allclose(logits_of(model, shell, embedding, ids), wanted, rtol=0, atol=2e-6)
    assert all(parameter.is_meta for parameter in model.module.parameters())
    assert not any("forward" in vars(layer) for layer in model.module.modules())


def test_only_rows_that_are_used_are_asked_for(make_model: Any) -> None:
    model, embedding = opened(make_model("llama")[0])
    asked: list[Tensor] = []

    def rows(ids: Tensor) -> Tensor:
        asked.append(ids)
        return embedding[ids]

    Shell(model).enter(torch.tensor([[5, 5, 80], [3, 5, 80]]), rows)
    assert [ids.tolist() for ids in asked] == [[3, 5, 80]]


def test_an_error_on_the_way_leaves_the_model_as_it_was(make_model: Any) -> None:
    model, _ = opened(make_model("opt")[0])
    shell = Shell(model)

    def rows(ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), 3)

    with pytest.raises(RuntimeError):
        shell.enter(ids_of(1, 4), rows)
    assert all(parameter.is_meta for parameter in model.module.parameters())
    assert not any("forward" in vars(layer) for layer in model.module.modules())


@pytest.mark.usefixtures("in_full")
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt-projected"])
def test_statistics_are_of_the_compressed_prefix(family: str, spill: bool, make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model(family)
    model, embedding = opened(folder)
    batches = [ids_of(2, 9, seed=1), ids_of(2, 9, seed=2), ids_of(1, 4, seed=3)]
    stream = Stream(model, batches, lambda rows: embedding[rows], tmp_path / "states")
    assert stream.states.spilled is spill and stream.tokens == 40
    changed = [{p.name: 0.5 * model.weight(p) for p in model.parts if p.block == i} for i in range(3)]
    for i in range(3):
        parts = [part for part in model.parts if part.block == i]
        wanted = _inputs(module, {k: v for new in changed[:i] for k, v in new.items()}, batches)
        found = stream.measure(i, parts, BOTH)
        for part in parts:
            _check(found[part.name], wanted[part.name])
        assert torch.equal(model.weight(parts[0]), module.state_dict()[parts[0].tensor])
        stream.advance(i, changed[i])
    wanted = _inputs(module, {k: v for new in changed for k, v in new.items()}, batches)
    _check(stream.head_inputs(BOTH), wanted["lm_head"])
    assert all(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_mixed_precision_is_near_and_only_where_nothing_is_compared(
    family: str, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, embedding = opened(make_model(family)[0])
    parts, batches = [part for part in model.parts if part.block == 1], [ids_of(2, 9, seed=1)]

    def found(dtype: torch.dtype, compared: bool) -> Any:
        monkeypatch.setattr(dense, "learning", lambda: dtype)
        rows = lambda ids: embedding[ids]  # noqa: E731
        stream = Stream(model, batches, rows, tmp_path, rows if compared else None)
        stream.advance(0, {})
        stats = stream.measure(1, parts, BOTH)
        return [stats[part.name].gram for part in parts]

    exact, rough, compared = found(torch.float32, False), found(torch.bfloat16, False), found(torch.bfloat16, True)
    for one, near, same in zip(exact, rough, compared, strict=True):
        assert near.dtype == torch.float32 and not torch.equal(one, near) and torch.equal(one, same)
        assert (near - one).norm() < 0.02 * one.norm()


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_drift_is_what_the_compressed_prefix_lost(family: str, spill: bool, make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model(family)
    model, embedding = opened(folder)
    batches = [ids_of(2, 9, seed=1), ids_of(1, 4, seed=3)]
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
    rounded = embedding + 0.3 * embedding.std() * noise
    stream = Stream(model, batches, lambda rows: rounded[rows], tmp_path, lambda rows: embedding[rows], True)
    first = {model.anatomy.embedding: rounded}
    changed = [{p.name: 0.5 * model.weight(p) for p in model.parts if p.block == i} for i in range(3)]
    original = _inputs(module, {}, batches)
    for i in range(3):
        parts = [part for part in model.parts if part.block == i]
        reached = _inputs(module, first | {k: v for new in changed[:i] for k, v in new.items()}, batches)
        stream.aim(i, measured=True)
        for _ in range(2):  # measuring again moves nothing
            found = stream.measure(i, parts, BOTH | {"drift"})
        for part in parts:
            if part.name.rpartition(".")[2] in ("o_proj", "down_proj"):
                assert found[part.name].drift is None
            else:
                _check_drift(found[part.name], original[part.name], reached[part.name])
        stream.advance(i, changed[i])
    if not model.tied:  # what `_inputs` puts in place of a tied embedding is the head's, too
        reached = _inputs(module, first | {k: v for new in changed for k, v in new.items()}, batches)
        _check_drift(stream.head_inputs(BOTH | {"drift"}), original["lm_head"], reached["lm_head"])


@pytest.mark.usefixtures("in_full")
def test_a_guide_s_windows_are_those_of_the_batches(make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model("llama")
    model, embedding = opened(folder)
    batches = [ids_of(2, 9, seed=1), ids_of(1, 9, seed=3)]
    parts = [part for part in model.parts if part.block == 0]
    guided, plain = parts[:3], parts[3:]
    weights = {part.name: torch.rand(3, 9, generator=torch.Generator().manual_seed(i)) for i, part in enumerate(guided)}
    stream = Stream(model, batches, lambda rows: embedding[rows], tmp_path, guide=weights)
    found, inputs = stream.measure(0, parts, BOTH), _inputs(module, {}, batches)
    for part in guided:
        x, count = inputs[part.name], weights[part.name].reshape(-1, 1)
        assert torch.allclose(found[part.name].gram, (count * x).T @ x, rtol=1e-4, atol=1e-3)
    for part in plain:
        x = inputs[part.name]
        assert torch.allclose(found[part.name].gram, x.T @ x, rtol=1e-4, atol=1e-3)


def _check_drift(stats: Any, original: Tensor, reached: Tensor) -> None:
    wanted = (original - reached).T @ reached
    assert wanted.abs().max() > 1e-2
    assert torch.allclose(stats.drift, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert torch.allclose(stats.gram, reached.T @ reached, rtol=1e-4, atol=1e-3)


def _check(stats: Any, wanted: Tensor) -> None:
    assert stats.count == len(wanted) == 40
    assert torch.allclose(stats.inputs, wanted, atol=1e-5)
    assert torch.allclose(stats.gram, wanted.T @ wanted, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def _inputs(module: nn.Module, weights: dict[str, Tensor], batches: list[Tensor]) -> dict[str, Tensor]:
    """Inputs of every linear layer of transformers' own model with some weights replaced for the while."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict({f"{name}.weight": tensor for name, tensor in weights.items()}, strict=False)
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].flatten(0, -2)))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    for batch in batches:
        module(batch)
    for hook in hooks:
        hook.remove()
    module.load_state_dict(state)
    return {name: torch.cat(tensors) for name, tensors in seen.items()}


@pytest.mark.usefixtures("in_full")
def test_a_module_from_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model = Model.wrap(module)
    batches = [torch.randn(5, 6), torch.randn(2, 4, 6)]
    stream = Stream(model, batches, lambda rows: rows, tmp_path)
    found = stream.measure(0, model.parts, BOTH)
    flat = torch.cat([batch.reshape(-1, 6) for batch in batches])
    with torch.no_grad():
        inner = module[:2](flat)
    for name, wanted in (("0", flat), ("2", inner)):
        stats = found[name]
        assert stats.count == 13 and stats.gram is not None and stats.inputs is not None
        assert torch.allclose(stats.inputs, wanted) and torch.allclose(stats.gram, wanted.T @ wanted, atol=1e-4)
    stream.advance(0, {"0": torch.zeros(8, 6)})
    assert all(parameter.is_meta for parameter in model.module.parameters())
