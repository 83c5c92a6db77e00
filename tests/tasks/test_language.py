from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ResourceError, UsageError
from tailorbird.tasks import language
from tailorbird.tasks import room as rooms
from tailorbird.tasks.head import Head, divergence, head_part
from tailorbird.tasks.language import Reference, evaluate, hidden, score

FAMILIES = ["llama", "llama-untied", "gemma2", "gemma3", "opt"]


def some_windows(count: int = 5, length: int = 16) -> torch.Tensor:
    return torch.randint(0, 320, (count, length), generator=torch.Generator().manual_seed(1))


def log_chances(module: Any, windows: torch.Tensor) -> torch.Tensor:
    """All of it at once, in float64: what evaluation must equal."""
    with torch.no_grad():
        return module(input_ids=windows, use_cache=False).logits[:, :-1].double().log_softmax(-1)


def nudged(folder: Path) -> Model:
    """The model with other weights, read through the same seam."""

    class Nudged:
        def __init__(self) -> None:
            self.inner = open_checkpoint(folder)
            self.config, self.source, self.tensors = self.inner.config, "nudged", self.inner.tensors

        def read(self, name: str) -> torch.Tensor:
            return self.inner.read(name) * 1.1

        def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
            return self.inner.read_rows(name, start, stop) * 1.1

    return Model.open(Nudged())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that don't divide anything, so that their seams are in every test."""
    monkeypatch.setattr(language, "VOCABULARY_CHUNK", 37)
    monkeypatch.setattr(language, "TOKEN_CHUNK", 11)
    monkeypatch.setattr(language, "BATCH_TOKENS", 40)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_direct_computation(make_model: Any, family: str) -> None:
    folder, module = make_model(family)
    windows = some_windows()
    p = log_chances(module, windows)
    nll = -p.gather(-1, windows[:, 1:, None]).mean().item()
    model = Model.open(open_checkpoint(folder))
    found = evaluate(model, windows, model)
    assert found.nll == pytest.approx(nll, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nll), rel=1e-5)
    assert found.reference_perplexity == found.perplexity
    assert (found.kl, found.top1_agreement) == (0.0, 1.0)
    assert (found.tokens, found.window, found.stride) == (75, 16, 15)
    assert all(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_divergence(make_model: Any, family: str) -> None:
    """In one pass over the vocabulary, with the derivative of capped logits: what autograd finds with all of it."""
    folder, _ = make_model(family)
    model, other = Model.open(open_checkpoint(folder)), nudged(folder)
    windows = some_windows(2)
    states, away = hidden(model, windows), hidden(other, windows)
    found, slope = divergence(Head(model, states), Head(other, away), 37)

    leaf = away.clone().requires_grad_()
    weight = model.weight(head_part(model))
    p, q = states @ weight.T, leaf @ (weight * 1.1).T
    if cap := model.config.get("final_logit_softcapping"):
        p, q = (torch.tanh(x / cap) * cap for x in (p, q))
    wanted = torch.nn.functional.kl_div(
        q.log_softmax(-1).flatten(0, 1), p.log_softmax(-1).flatten(0, 1), log_target=True, reduction="batchmean"
    )
    wanted.backward()
    assert leaf.grad is not None and found == pytest.approx(wanted.item(), rel=1e-3) and found > 1e-4
    assert torch.allclose(slope, leaf.grad.flatten(0, 1), rtol=1e-3, atol=1e-3 * float(leaf.grad.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_divergence_equals_the_direct_computation(make_model: Any, family: str) -> None:
    folder, module = make_model(family)
    windows = some_windows()
    p = log_chances(module, windows)
    other = nudged(folder)
    candidate = type(module)(module.config).eval()
    candidate.load_state_dict({name: value * 1.1 for name, value in module.state_dict().items()})
    q = log_chances(candidate, windows)
    found = evaluate(other, windows, Model.open(open_checkpoint(folder)))
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert found.kl is not None and found.kl > 1e-4
    assert found.top1_agreement == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found.nll == pytest.approx(-q.gather(-1, windows[:, 1:, None]).mean().item(), rel=1e-5)


def test_the_original_is_computed_once(make_model: Any) -> None:
    folder, _ = make_model("gemma3")
    windows = some_windows()
    original = Model.open(open_checkpoint(folder))
    reference = Reference.of(original, windows)
    steps: list[tuple[str, int, int]] = []
    found = evaluate(nudged(folder), windows, reference, lambda *step: steps.append(step))
    assert found == evaluate(nudged(folder), windows, original)
    assert steps[:2] == [("blocks", 1, 2), ("blocks", 2, 2)]
    assert steps[2][0] == "head" and steps[-1] == ("head", 320, 320)
    assert "kl" in found.to_json()


def test_without_an_original(make_model: Any) -> None:
    model = Model.open(open_checkpoint(make_model("llama")[0]))
    windows = some_windows()
    found = evaluate(model, windows)
    assert found.kl is found.top1_agreement is found.reference_perplexity is None
    assert found == score(model, hidden(model, windows), windows)


def test_a_reference_that_does_not_fit(make_model: Any) -> None:
    model = Model.open(open_checkpoint(make_model("llama")[0]))
    reference = Reference.of(model, some_windows())
    with pytest.raises(UsageError, match="other windows"):
        evaluate(model, some_windows(3), reference)


def test_states_too_large_for_memory_lie_in_a_file(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Model.open(open_checkpoint(make_model("llama")[0]))
    expected = hidden(model, some_windows())
    monkeypatch.setattr(rooms, "SPILL_BYTES", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert torch.equal(hidden(model, some_windows()), expected)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(handle: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rooms, "_reserve", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ResourceError, match="no space left"):
        rooms.room((100, 100), limit=10)
    assert not list(tmp_path.iterdir())
