"""The estimate against what it estimates: the model's own gradients, and the KL of models with parts replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.formats import PlaneSpec
from tailorbird.methods.rtn import RTN
from tailorbird.runtime.load import load
from tailorbird.score import output as room
from tailorbird.score.fisher import fisher
from tailorbird.score.losses import factors, formats, losses, measured
from tailorbird.score.output import head_losses, mass, output
from tailorbird.score.patched import patched
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.head import Head
from tailorbird.tasks.language import Reference, evaluate

Open = Callable[[str], Model]
FAMILIES = ["llama", "untied", "gemma3", "opt"]


def spec_of(part: Part, bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, part.shape[1], 32)


def noise(part: Part, scale: float) -> Tensor:
    seed = sum(part.name.encode())
    return torch.randn(part.shape, generator=torch.Generator().manual_seed(seed)) * scale


def picked(error: Tensor, index: Tensor | None) -> Tensor:
    return error if index is None else error[index]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_model_s_own(opened: Open, windows: Tensor, tmp_path: Path, family: str) -> None:
    """An error that moves one weight only: then the estimate is the sum of squares of the tokens' derivatives."""
    model, window = opened(family), windows[:1]
    name = next(part.name for part in model.parts if part.block == 1)
    probe = next(part for part in model.parts if part.name == name)

    def errors(part: Part, rows: Tensor, index: Tensor | None) -> list[Tensor]:
        whole = torch.zeros(part.shape)
        if part is probe:
            whole[3, 5] = 1.0
        return [picked(whole, index)]

    found = fisher(model, window, errors, tmp_path)[name][0]
    module = load(model.weights).module  # type: ignore[arg-type]
    layer = module.get_submodule(name)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def hook(_: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        inputs.append(given[0].reshape(-1, given[0].shape[-1]))
        outputs.append(out.reshape(-1, out.shape[-1]).detach().requires_grad_())
        return outputs[0].view_as(out)

    heads: list[Tensor] = []
    handles = [
        layer.register_forward_hook(hook),
        module.get_submodule(model.anatomy.head).register_forward_pre_hook(lambda _, given: heads.append(given[0])),
    ]
    logits = module(input_ids=window, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    labels = output(model, heads[0][0].detach(), 0).labels
    chosen = logits.log_softmax(-1)[torch.arange(len(labels)), labels].sum()
    gradient = torch.autograd.grad(chosen, outputs[0])[0]
    expected = 0.5 * (gradient[:, 3] * inputs[0][:, 5]).square().mean()
    assert found == pytest.approx(float(expected), rel=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_s_loss_is_its_kl(opened: Open, windows: Tensor, family: str) -> None:
    """For a small error, to second order; nothing is sampled."""
    model = opened(family)
    reference = Reference.of(model, windows)
    states = reference.states.reshape(-1, reference.states.shape[-1])
    part = next(part for part in model.parts if model.anatomy.head in (part.name, *part.tied))
    error = noise(part, 0.01)
    found = head_losses(model, states, output(model, states, 0), lambda rows, index: [error[index], 2 * error[index]])
    if model.tied:  # the embedding stays as it is: only logits move
        was = states @ model.weight(part).T
        p, q = was.log_softmax(-1), (was + states @ error.T).log_softmax(-1)
        kl = float((p.exp() * (p - q)).sum(-1).mean())
    else:
        changed = patched(model, {part.name: lambda a, b: model.read_rows(part, a, b).float() + error[a:b]})
        kl = evaluate(changed, windows, reference).kl or 0.0
    assert float(found[0]) == pytest.approx(kl, rel=0.1)
    assert float(found[1]) == pytest.approx(4 * float(found[0]), rel=1e-4)


@pytest.mark.parametrize("family", ["untied", "gemma2"])
def test_slices_of_the_vocabulary_change_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = opened(family)
    states = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    whole = output(model, states, 3)
    monkeypatch.setattr(room, "SLICE", 64)
    monkeypatch.setattr(room, "TOKENS", 7)
    some = output(model, states, 3)
    assert torch.equal(whole.labels, some.labels) and len(set(whole.labels.tolist())) > 20
    torch.testing.assert_close(whole.gradient, some.gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.log_total, some.log_total)


def test_labels_follow_the_model_s_distribution(opened: Open) -> None:
    model = opened("llama")
    state = torch.randn(1, 64, generator=torch.Generator().manual_seed(1)) * 0.3
    found = output(model, state.repeat(4000, 1), 3)
    part = model.parts[0]
    share = (state @ model.weight(part).T).softmax(-1)[0]
    seen = torch.bincount(found.labels, minlength=len(share)) / 4000
    assert float((seen - share).abs().sum()) < 2.5 * float((share * (1 - share) / 4000).sqrt().sum())
    assert torch.allclose(mass(Head(model, state.repeat(4000, 1)[None]), found) / 4000, share, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_ranks_parts_as_measuring_does(opened: Open, windows: Tensor, tmp_path: Path, family: str) -> None:
    model, method = opened(family), RTN()
    options = formats(model.parts, spec_of)
    found = losses(model, Rounding(method), options, windows, tmp_path, 0, lambda done, total: None)
    reference = Reference.of(model, windows)
    pairs = [
        (found[part.name][bits], measured(reference, Rounding(method), {part.name: options[part.name][bits]}))
        for part in model.parts
        for bits in (3, 4)
    ]
    assert stats.spearmanr(*zip(*pairs, strict=True)).statistic > 0.8
    for by_bits in found.values():
        assert by_bits[3] > by_bits[4] > by_bits[5] > 0


def test_factors_are_measured_over_estimated(opened: Open, windows: Tensor) -> None:
    model, method = opened("llama"), RTN()
    reference = Reference.of(model, windows)
    specs = {part.name: spec_of(part, 3) for part in model.parts}
    mine = {part.name: specs[part.name] for part in model.parts if part.role == "mlp"}
    kl = measured(reference, Rounding(method), mine)
    guess = {part.name: kl / len(mine) / 2 for part in model.parts}
    found = factors(reference, Rounding(method), model.parts, specs, guess)
    assert found["mlp"] == pytest.approx(2, rel=1e-6)
    assert set(found) == {"embedding", "attention", "mlp"}


def test_replaced_parts_are_read_where_they_are_asked_for(opened: Open) -> None:
    model = opened("untied")
    part = model.parts[1]
    other = patched(model, {part.name: lambda start, stop: torch.full((stop - start, part.shape[1]), float(start))})
    assert torch.equal(other.read_rows(part, 2, 4), torch.full((2, part.shape[1]), 2.0))
    assert torch.equal(other.weight(model.parts[0]), model.weight(model.parts[0]))
