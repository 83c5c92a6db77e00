"""Every family's tiny model: which parts it has, where they stand, and what is wrong with a damaged one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tailorbird.anatomy import Model, Part
from tailorbird.anatomy.families import anatomies, anatomy_of
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError

GATED = {
    "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
}  # fmt: skip
FUSED = {
    "self_attn.qkv_proj": (64, 32), "self_attn.o_proj": (32, 32), "mlp.gate_up_proj": (96, 32),
    "mlp.down_proj": (32, 48),
}  # fmt: skip
OPT = {
    "self_attn.q_proj": (32, 32), "self_attn.k_proj": (32, 32), "self_attn.v_proj": (32, 32),
    "self_attn.out_proj": (32, 32), "fc1": (48, 32), "fc2": (32, 48),
}  # fmt: skip
# Parts of a block, width of the embedding, tied.
FAMILIES: dict[str, tuple[dict[str, tuple[int, int]], int, bool]] = {
    "llama": (GATED, 32, False),
    "llama-tied": (GATED, 32, True),
    "mistral": (GATED, 32, False),
    "qwen2": (GATED, 32, False),
    "qwen3": (GATED, 32, True),
    "phi3": (FUSED, 32, False),
    "gemma": (GATED, 32, True),
    "gemma2": (GATED, 32, True),
    "gemma3": (GATED, 32, True),
    "opt": (OPT, 32, True),
    "opt-unnormed": (OPT, 32, True),
    "opt-untied": (OPT, 32, False),
    "opt-projected": (OPT, 16, True),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts(family: str, make_model: Any) -> None:
    folder, module = make_model(family)
    model = Model.open(open_checkpoint(folder))
    inner, width, tied = FAMILIES[family]
    root = "model.decoder" if family.startswith("opt") else "model"
    assert model.blocks == [f"{root}.layers.{i}" for i in range(3)]
    assert model.parts[0] == Part(f"{root}.embed_tokens", (90, width), "embedding", tied=("lm_head",) if tied else ())
    heads = [part for part in model.parts if part.role == "head"]
    assert heads == ([] if tied else [Part("lm_head", (90, width), "head")])
    assert tied or model.parts[-1] == heads[0]
    for i in range(3):
        parts = {part.name: part for part in model.parts if part.block == i}
        prefix = f"{root}.layers.{i}."
        assert {name.removeprefix(prefix): part.shape for name, part in parts.items()} == inner
        assert all(part.role == ("attention" if "self_attn" in part.name else "mlp") for part in parts.values())
    packed = sum(part.numel for part in model.parts)
    kept = sum(math.prod(shape) for shape in model.kept().values())
    assert model.numel == packed
    assert packed + kept == sum(parameter.numel() for parameter in module.parameters())
    assert all(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_filled_weights_are_the_checkpoints(family: str, make_model: Any) -> None:
    folder, module = make_model(family)
    model = Model.open(open_checkpoint(folder))
    state = module.state_dict()
    for part in model.parts:
        assert torch.equal(model.weight(part), state[part.tensor])
        assert torch.equal(model.read_rows(part, 3, 9), state[part.tensor][3:9])
    for name in model.kept():
        assert torch.equal(model.read(name), state[name])
    block = model.blocks[1]
    model.fill(block)
    for name, parameter in model.module.get_submodule(block).named_parameters():
        assert torch.equal(parameter, state[f"{block}.{name}"]) and not parameter.requires_grad
    first = next(part for part in model.parts if part.block == 1)
    model.fill(block, {first.name: torch.full(first.shape, 2.0)})
    assert (model.weight(first) == 2).all()
    model.drop(block)
    assert all(parameter.is_meta for parameter in model.module.parameters())


def test_half_precision_checkpoints_compute_in_single(make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model("llama")
    shutil.copytree(folder, tmp_path / "m")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    model = Model.open(open_checkpoint(tmp_path / "m"))
    part = model.parts[1]
    assert model.read(part.tensor).dtype == torch.bfloat16
    assert torch.equal(model.weight(part), module.state_dict()[part.tensor].bfloat16().float())
    model.fill(model.blocks[0])
    assert {p.dtype for p in model.module.get_submodule(model.blocks[0]).parameters()} == {torch.float32}


def test_shards_and_the_bare_decoder(make_model: Any, tmp_path: Path) -> None:
    folder, module = make_model("gemma3", max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    state = module.state_dict()
    sharded = Model.open(open_checkpoint(folder))
    assert all(torch.equal(sharded.weight(part), state[part.tensor]) for part in sharded.parts)
    module.model.save_pretrained(tmp_path / "bare")
    bare = Model.open(open_checkpoint(tmp_path / "bare"))
    assert bare.parts == sharded.parts
    assert all(torch.equal(bare.weight(part), state[part.tensor]) for part in bare.parts)


Damage = Callable[[dict[str, torch.Tensor]], None]
DOWN = "model.layers.2.mlp.down_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def damaged(make_model: Any, tmp_path: Path) -> Callable[[Damage], Path]:
    """A function that gives a copy of the llama with its tensors changed."""

    def make(damage: Damage) -> Path:
        folder, _ = make_model("llama")
        shutil.copytree(folder, tmp_path / "damaged")
        tensors = load_file(folder / "model.safetensors")
        damage(tensors)
        save_file(tensors, tmp_path / "damaged" / "model.safetensors")
        return tmp_path / "damaged"

    return make


@pytest.mark.parametrize("name", [DOWN, NORM, "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_a_missing_tensor(damaged: Any, name: str) -> None:
    folder = damaged(lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"{name!r} is missing") as caught:
        Model.open(open_checkpoint(folder))
    assert str(folder) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("name", [DOWN, NORM, "lm_head.weight"])
def test_a_tensor_of_another_shape(damaged: Any, name: str) -> None:
    folder = damaged(lambda tensors: tensors.update({name: torch.zeros(3, 4)}))
    with pytest.raises(ModelError, match=r"\(3, 4\), config.json says") as caught:
        Model.open(open_checkpoint(folder))
    assert name in caught.value.message and str(folder) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [DOWN, NORM])
def test_a_value_that_is_no_number(damaged: Any, name: str, bad: float) -> None:
    folder = damaged(lambda tensors: tensors[name].view(-1)[7:8].fill_(bad))
    model = Model.open(open_checkpoint(folder))
    with pytest.raises(ModelError, match="not finite") as caught:
        model.read(name)
    assert name in caught.value.message and str(folder) in caught.value.message and caught.value.hint
    with pytest.raises(ModelError, match="not finite"):
        model.fill(name.rpartition(".mlp" if name == DOWN else ".input")[0])
    if name == DOWN:
        with pytest.raises(ModelError, match="not finite"):
            model.weight(next(part for part in model.parts if part.tensor == DOWN))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "warbler"}, "warbler"),
        ({"model_type": None}, "None"),
        ({"model_type": ["llama"]}, "llama"),
        ({"hidden_size": 0}, "config.json"),
        ({"num_attention_heads": "four"}, "config.json"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers|layers"),
        ({"num_hidden_layers": 2**70}, "num_hidden_layers|layers"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"hidden_act": "no such thing"}, "config.json"),
        ({"rope_parameters": {"rope_type": "no such thing"}}, "config.json"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(make_model: Any, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    folder, _ = make_model("llama")
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says) as caught:
        Model.open(open_checkpoint(tmp_path / "m"))
    assert caught.value.hint


def test_an_unknown_family_lists_the_known() -> None:
    with pytest.raises(ModelError, match="'warbler'") as caught:
        anatomy_of({"model_type": "warbler"}, "owner/model")
    for known in ("llama", "gemma3_text", "opt"):
        assert known in caught.value.hint
    assert caught.value.message.startswith("owner/model")


def test_no_type_belongs_to_two_families() -> None:
    types = [kind for anatomy in anatomies() for kind in anatomy.model_types]
    assert len(types) == len(set(types)) >= 9
