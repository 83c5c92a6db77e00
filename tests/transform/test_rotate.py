"""A rotated model computes what the original does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import UsageError
from tailorbird.transform.rotate import rotated

WHOLE = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gemma"]
HEADS = [*WHOLE, "gemma2", "gemma3"]
IDS = torch.randint(0, 90, (3, 17), generator=torch.Generator().manual_seed(0))


def opened(folder: Path) -> Model:
    return Model.open(open_checkpoint(folder))


def logits(model: Model) -> torch.Tensor:
    model.fill("model")
    if model.tied:
        model.module.tie_weights()
    else:
        model.fill("lm_head")
    with torch.no_grad():
        found = model.module(input_ids=IDS, use_cache=False).logits
    model.drop("")
    return torch.as_tensor(found)


def cases() -> list[tuple[str, bool]]:
    return [*((name, True) for name in WHOLE), *((name, False) for name in HEADS)]


@pytest.mark.parametrize(("family", "residual"), cases())
def test_logits_are_the_originals(family: str, residual: bool, make_model: Any) -> None:
    folder, module = make_model(family)
    with torch.no_grad():
        wanted = module(input_ids=IDS, use_cache=False).logits
    original = opened(folder)
    model = rotated(original, residual, seed=3)
    assert torch.allclose(logits(model), wanted, atol=1e-4)
    moved = {part.name.rpartition(".")[2] for part in original.parts if differs(original, model, part)}
    heads = set() if family == "phi3" else {"v_proj", "o_proj"}
    assert moved == ({part.name.rpartition(".")[2] for part in original.parts} if residual else heads)
    assert model.tied == (original.tied and not residual)


def differs(one: Model, other: Model, part: Any) -> bool:
    return not torch.allclose(one.weight(part), other.weight(part), atol=1e-3)


def test_one_gain_for_all_channels_leaves_the_head_tied(make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model("llama-tied")
    even = copy.deepcopy(module)
    with torch.no_grad():
        even.model.norm.weight.fill_(1.25)
        wanted = even(input_ids=IDS, use_cache=False).logits
    even.save_pretrained(tmp_path / "even")
    model = rotated(opened(tmp_path / "even"))
    assert model.tied and model.parts == opened(folder).parts
    assert torch.allclose(logits(model), wanted, atol=1e-4)
    assert (model.read("model.norm.weight") == 1.25).all()


def test_a_bare_decoder(make_model: Any, tmp_path: Path) -> None:
    _, module = make_model("qwen3")
    module.model.save_pretrained(tmp_path / "bare")
    with torch.no_grad():
        wanted = module(input_ids=IDS, use_cache=False).logits
    assert torch.allclose(logits(rotated(opened(tmp_path / "bare"))), wanted, atol=1e-4)


def test_rows_are_read_as_the_whole(make_model: Any) -> None:
    model = rotated(opened(make_model("llama")[0]))
    for part in model.parts:
        whole = model.weight(part)
        assert torch.equal(model.read_rows(part, 3, 9), whole[3:9])
        assert torch.equal(model.gather(part.tensor, torch.tensor([0, 2, 11])), whole[[0, 2, 11]])
        assert torch.equal(model.read(part.tensor), whole)


def test_another_seed_is_another_rotation_of_the_same_weights(make_model: Any) -> None:
    original = opened(make_model("llama")[0])
    one, same, other = (rotated(original, seed=seed) for seed in (1, 1, 2))
    part = original.parts[3]
    assert torch.equal(one.weight(part), same.weight(part))
    assert differs(one, other, part)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_norms_after_layers_forbid_it(family: str, make_model: Any) -> None:
    with pytest.raises(UsageError, match="norm with gains") as caught:
        rotated(opened(make_model(family)[0]))
    assert "rotate_residual=false" in caught.value.hint


@pytest.mark.parametrize("residual", [True, False])
def test_a_family_nobody_described(residual: bool, make_model: Any) -> None:
    with pytest.raises(UsageError, match="hang together") as caught:
        rotated(opened(make_model("opt")[0]), residual)
    assert caught.value.hint
