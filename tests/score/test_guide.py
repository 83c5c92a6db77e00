"""What tokens count, against the gradients of transformers' own model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.runtime.load import load
from tailorbird.score import guide as room
from tailorbird.score.guide import guide, shared
from tailorbird.score.output import output

Open = Callable[[str], Model]


def felt(model: Model, window: Tensor, seed: int) -> dict[str, Tensor]:
    """Squared norms of the gradients at every part's outputs, for labels drawn with a seed."""
    module = load(model.weights).module  # type: ignore[arg-type]
    outputs: dict[str, Tensor] = {}
    heads: list[Tensor] = []

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_: torch.nn.Module, given: object, out: Tensor) -> Tensor:
            outputs[name] = out if out.requires_grad else out.detach().requires_grad_()
            outputs[name].retain_grad()
            return outputs[name]

        return hook

    for part in model.parts:
        if part.block is not None:
            module.get_submodule(part.name).register_forward_hook(keep(part.name))
    module.get_submodule(model.anatomy.head).register_forward_pre_hook(lambda _, given: heads.append(given[0]))
    logits = module(input_ids=window, use_cache=False).logits[0]
    labels = output(model, heads[0][0].detach(), seed).labels
    logits.log_softmax(-1)[torch.arange(len(labels)), labels].sum().backward()
    return {name: out.grad.square().sum(-1).flatten() for name, out in outputs.items() if out.grad is not None}


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("family", ["llama", "untied", "gemma3", "opt"])
def test_a_token_counts_by_the_gradient_at_the_part_s_output(
    opened: Open, windows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, spilled: bool
) -> None:
    if spilled:
        monkeypatch.setattr(room, "SPILL_BYTES", 0)
    model, steps = opened(family), []
    found = guide(model, windows[:3], tmp_path, 5, lambda done, all_: steps.append((done, all_)))
    assert found.keys() == {part.name for part in model.parts if part.block is not None}
    assert steps == [(k + 1, 3 + len(model.blocks)) for k in range(3 + len(model.blocks))]
    assert any(tmp_path.rglob("*.bin")) == spilled
    seen = [felt(model, windows[i : i + 1], 5 + i) for i in range(3)]
    for name, weights in found.items():
        expected = torch.stack([one[name] for one in seen])
        assert weights.shape == (3, 24) and float(weights.mean()) == pytest.approx(1, rel=1e-4)
        torch.testing.assert_close(weights, expected / expected.mean(), rtol=5e-3, atol=1e-4)
    assert all(parameter.is_meta for parameter in model.module.parameters())


def test_a_part_that_nothing_depends_on_has_all_tokens_alike(
    opened: Open, windows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened("untied")
    plain = model.read_rows
    last = next(part for part in model.parts if part.name == model.anatomy.head)

    def silent(part: object, start: int, stop: int) -> Tensor:
        rows = plain(part, start, stop)  # type: ignore[arg-type]
        return torch.zeros_like(rows) if part == last else rows

    monkeypatch.setattr(model, "read_rows", silent)
    found = guide(model, windows[:1], tmp_path, 0, lambda done, all_: None)
    assert all(torch.equal(weights, torch.ones(1, 24)) for weights in found.values())


def test_the_rest_counts_alike() -> None:
    found = {"a": torch.tensor([[0.0, 3.0], [1.0, 0.0]])}
    assert torch.equal(shared(found, 0.25)["a"], torch.tensor([[0.75, 1.5], [1.0, 0.75]]))
    assert torch.equal(shared(found, 1.0)["a"], found["a"])
