"""compressed-tensors: rules without the library; with it, round trips bit for bit and logits in transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tailorbird
from tailorbird.anatomy import Part
from tailorbird.artifact import Artifact, targets
from tailorbird.errors import ArtifactError, MissingExtra, UsageError
from tailorbird.formats import PlaneSpec
from tailorbird.formats.safetensors_header import read_header
from tailorbird.formats.safetensors_write import write

PART = Part("model.layers.0.mlp.up_proj", (8, 64), "mlp", 0)


def test_what_is_carried() -> None:
    target = targets.find("compressed-tensors")
    for bits in range(1, 8):
        for offset in ("none", "integer"):
            spec = PlaneSpec.uniform(bits, 64, 16, offset)  # type: ignore[arg-type]
            assert target.carried(PART, spec) is spec or target.carried(PART, spec) == spec
    widest = PlaneSpec.uniform(8, 64, 16)
    assert target.carried(PART, widest) == replace(widest, offset="none")
    mixed = PlaneSpec((2, 3, 4, 3), 16, column_order=True)
    assert target.carried(PART, mixed) == PlaneSpec.uniform(4, 64, 16)
    assert target.carried(replace(PART, role="embedding"), mixed) == mixed
    assert target.carried(PART, PlaneSpec.uniform(3, 64, 16, "float")).offset == "none"


def test_fused_layers_agree(tiny: Any, artifact_of: Any) -> None:
    target = targets.find("compressed-tensors")
    parts = Artifact.open(artifact_of("llama")).plan.parts
    ties = target.ties(parts)
    assert (
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.self_attn.v_proj",
    ) in ties
    assert ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj") in ties
    assert len(ties) == 4


@pytest.mark.parametrize("method", ["rtn", "slim-llm"])
def test_a_plan_under_its_rules(method: str, artifact_of: Any) -> None:
    """Budgets that leave a rest: without rules some members of a fused layer would be raised alone."""
    for budget in ("4.6bits", "5.3bits"):
        artifact = Artifact.open(artifact_of("untied", method, budget, target="compressed-tensors"))
        assert artifact.bits <= float(budget.removesuffix("bits"))
        rules = targets.find("compressed-tensors").rules(artifact.plan.parts)
        specs = artifact.plan.specs
        assert all(rules.allows(part, specs[part.name]) for part in artifact.plan.parts)
        assert all(len({specs[name] for name in group}) == 1 for group in rules.ties)


def test_an_edited_plan_must_obey(artifact_of: Any) -> None:
    artifact = artifact_of("llama", target="compressed-tensors")
    plan, model = Artifact.open(artifact).plan, artifact.parent / "model"
    up, down = (f"model.layers.0.mlp.{leaf}_proj" for leaf in ("up", "down"))
    mixed = replace(plan, specs=plan.specs | {down: PlaneSpec((2, 3, 4, 3), 32)})
    with pytest.raises(UsageError, match="can't carry the plan's format") as caught:
        tailorbird.prepare(model, plan=mixed, target="compressed-tensors")
    assert "nearest" in caught.value.hint and "'bits': 4" in caught.value.hint
    alone = replace(plan, specs=plan.specs | {up: PlaneSpec.uniform(7, 64, 32)})
    with pytest.raises(UsageError, match="needs one format for"):
        tailorbird.prepare(model, plan=alone, target="compressed-tensors")
    assert tailorbird.prepare(model, plan=alone).plan.specs[up].bits == (7, 7)


def test_without_the_library_it_says_so(artifact_of: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "compressed_tensors", None)
    with pytest.raises(MissingExtra) as caught:
        tailorbird.export(artifact_of("llama"), tmp_path / "out", "compressed-tensors")
    assert "tailorbird[compressed-tensors]" in caught.value.hint


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("family", ["llama", "untied", "gemma3", "opt"])
def test_transformers_computes_the_same(
    family: str, symmetric: str, artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    options = {"symmetric": symmetric, "group_size": 32}
    artifact = artifact_of(family, "rtn", "4.8bits", options=options, target="compressed-tensors")
    done = tailorbird.export(artifact, tmp_path / "out", "compressed-tensors")
    assert done.exact and not done.changes
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=ids).logits
    assert torch.allclose(found, logits(artifact), rtol=0, atol=1e-5 * float(found.abs().max()))
    tailorbird.verify(tmp_path / "out")


def test_a_head_of_its_own_may_be_packed(artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    artifact = artifact_of("untied", "rtn", "4.8bits", options={"group_size": 32}, target="compressed-tensors")
    plain = tailorbird.export(artifact, tmp_path / "plain", "compressed-tensors")
    done = tailorbird.export(artifact, tmp_path / "out", "compressed-tensors", options={"pack_head": True})
    assert done.exact and done.nbytes < plain.nbytes and "the embedding is plain" in done.check.notes[0]
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["model.embed_tokens"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=ids).logits
    assert torch.allclose(found, logits(artifact), rtol=0, atol=1e-5 * float(found.abs().max()))
    tied = artifact_of("llama", "rtn", "4.8bits", options={"group_size": 32}, target="compressed-tensors")
    sizes = [tailorbird.export(tied, tmp_path / f"tied{pack}", "compressed-tensors", options={"pack_head": pack}).nbytes
             for pack in (False, True)]  # fmt: skip
    assert sizes[0] == sizes[1]


def test_every_width_comes_back(artifact_of: Any, tmp_path: Path) -> None:
    """One to eight bits in one model, bit for bit; the check of the export itself compares the codes."""
    pytest.importorskip("compressed_tensors")
    base = artifact_of("untied", "rtn", "5bits")
    plan = Artifact.open(base).plan
    widths = iter([1, 2, 3, 4, 5, 6, 7, 8] * 9)
    wanted = {f"model.layers.{i}.{leaf}": next(widths) for i in range(2) for leaf in ("qkv", "o", "gu", "down")}
    names = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gu", "up_proj": "gu", "o_proj": "o"}
    specs = {}
    for part in plan.parts:
        layer = ".".join(part.name.split(".")[:3]) if part.block is not None else ""
        bits = wanted.get(f"{layer}.{names.get(part.name.split('.')[-1], 'down')}", 4)
        specs[part.name] = PlaneSpec.uniform(bits, part.shape[1], 16, "none" if bits == 8 else "integer")
    artifact = artifact_of("untied", plan=replace(plan, specs=specs), budget=None, method="rtn")
    done = tailorbird.export(artifact, tmp_path / "out", "compressed-tensors", options={"dtype": "bf16"})
    assert not done.exact and done.check.error <= 2**-8  # the embedding and the norms
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert {group["weights"]["num_bits"] for group in config["config_groups"].values()} == {2, 3, 4, 5, 6, 7, 8}
    assert sorted(config["config_groups"]) == list(config["config_groups"])
    targeted = [name for group in config["config_groups"].values() for name in group["targets"]]
    assert len(targeted) == len(set(targeted)) == 14 and "lm_head" in config["ignore"]


def test_mixed_groups_are_stored_wider(artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    """Nothing is lost, so nobody has to allow it; what it costs is told, and how to avoid it."""
    pytest.importorskip("compressed_tensors")
    plan = Artifact.open(artifact_of("llama")).plan
    specs = {part.name: PlaneSpec((3, 2) * (part.shape[1] // 32), 16) for part in plan.parts}
    artifact = artifact_of("llama", plan=replace(plan, specs=specs), budget=None, method="rtn")
    done = tailorbird.export(artifact, tmp_path / "out", "compressed-tensors")
    assert done.exact and len(done.changes) == 14 and "--target compressed-tensors" in done.advice
    assert all(change.lost == 0 and change.nbytes[0] < change.nbytes[1] for change in done.changes)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=ids).logits
    assert torch.allclose(found, logits(artifact), rtol=0, atol=1e-5 * float(found.abs().max()))


def test_another_code_is_noticed(artifact_of: Any, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    artifact = artifact_of("llama", "rtn", "4.8bits", target="compressed-tensors")
    tailorbird.export(artifact, tmp_path / "out", "compressed-tensors")
    path = tmp_path / "out" / "model.safetensors"
    from safetensors.torch import load_file

    tensors = load_file(path)
    name = next(name for name in read_header(path, error=ArtifactError) if name.endswith("weight_packed"))
    tensors[name] = tensors[name] ^ 1
    write(path, tensors)
    with pytest.raises(ArtifactError, match="other codes"):
        targets.find("compressed-tensors").check(Artifact.open(artifact), tmp_path / "out")
