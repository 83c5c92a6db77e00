"""Exports to GGUF: our own reader gets the artifact's weights back, and what can't be written is refused before."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

import tailorbird.artifact.verify as verifying
from tailorbird.artifact.export import Exported, export
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets import find
from tailorbird.artifact.targets.gguf_types import choose, fitting, relative_error
from tailorbird.checkpoint import open_checkpoint
from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.checkpoint.gguf_reader import GgufFile, read_gguf
from tailorbird.errors import ArtifactError, ModelError, UsageError
from tailorbird.pipeline import compress

TINY = runpy.run_path(str(Path(__file__).parents[2] / "pipeline" / "tiny.py"))
PLAIN = {"scale": "fp16", "symmetric": True, "group_size": 32}
# name: family, changes to its configuration, method's options, budget
ARTIFACTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "plain": ("llama", {}, PLAIN, "5.5bits"),
    "gemma": ("gemma3", {"query_pre_attn_scalar": 16, "num_hidden_layers": 7}, {}, "4.5bits"),
    "wide": ("llama", {"hidden_size": 256, "intermediate_size": 256}, {}, "4bits"),
    "biased": ("untied", {}, {}, "5bits"),
    "opt": ("opt", {}, {}, "5bits"),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of artifacts, by name."""
    folder, made = tmp_path_factory.mktemp("artifacts"), {}
    text = TINY["make_text"](folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        for name, (family, changes, options, budget) in ARTIFACTS.items():
            TINY["make_model"](family, folder / f"{name}-model", **changes)
            made[name] = folder / name
            compress(
                folder / f"{name}-model",
                made[name],
                method="rtn",
                budget=budget,
                options=options,
                data=text,
                **TINY["SMALL"],
            )
    return made


def exported(artifact: Path, out: Path, to: str = "gguf", **options: Any) -> tuple[Exported, GgufFile, Checkpoint]:
    done = export(artifact, out, to, options=options)
    return done, read_gguf(out / "model.gguf"), open_checkpoint(out / "model.gguf", cache=out.parent / "cache")


def types_of(file: GgufFile) -> Counter[str]:
    return Counter(tensor.type_name for tensor in file.tensors.values() if len(tensor.shape) == 2)


def test_plain_formats_are_exact(artifacts: dict[str, Path], tmp_path: Path) -> None:
    done, file, back = exported(artifacts["plain"], tmp_path / "out")
    artifact = Artifact.open(artifacts["plain"])
    assert done.exact and done.check.exact and done.check.error == 0
    assert set(types_of(file)) <= {"Q4_0", "Q5_0", "Q8_0"} and len(types_of(file)) > 1
    assert set(back.tensors) == set(artifact.tensors)
    for name in artifact.tensors:
        assert torch.equal(back.read(name), artifact.read(name).to(back.read(name).dtype)), name  # halves, mostly
    for key in ("hidden_size", "num_key_value_heads", "tie_word_embeddings", "vocab_size", "bos_token_id"):
        assert back.config[key] == artifact.config[key], key
    assert json.loads(back.tokenizer_file.read_text())["model"]["vocab"].items() >= (  # type: ignore[union-attr]
        json.loads(artifact.tokenizer_bytes())["model"]["vocab"].items()
    )
    same = export(artifacts["plain"], tmp_path / "again", "gguf-exact")
    assert same.exact and not same.changes and same.digest != done.digest
    assert (tmp_path / "again/model.gguf").read_bytes() == (tmp_path / "out/model.gguf").read_bytes()


def test_a_plan_made_for_it_needs_no_change(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = artifacts["wide"].parent
    job = {"method": "gptq", "budget": "5bits", "data": folder / "text.txt", **TINY["SMALL"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        compress(folder / "wide-model", tmp_path / "made", target="gguf-exact", **job)
    done = export(tmp_path / "made", tmp_path / "out", "gguf-exact")
    assert done.exact and not done.changes
    assert set(types_of(read_gguf(tmp_path / "out" / "model.gguf"))) <= {"Q1_0", "Q4_0", "Q5_0", "Q8_0"}


def test_others_are_encoded_anew_within_the_bound(artifacts: dict[str, Path], tmp_path: Path) -> None:
    done, file, back = exported(artifacts["gemma"], tmp_path / "out")
    artifact = Artifact.open(artifacts["gemma"])
    assert not done.exact and done.check.why and done.check.parts == len(artifact.tensors)
    told = {note.partition(":")[0]: note for note in done.check.notes}
    assert set(types_of(file)) == set(told) and all("relative squared error" in note for note in told.values())
    for part in artifact.plan.parts:
        want = artifact.read(part.tensor)
        allowed = max(0.1 * 4 ** -artifact.plan.specs[part.name].mean_bits, 1e-4)
        assert relative_error(back.read(part.tensor).float(), want) < 2 * allowed
    for name in set(artifact.tensors) - {part.tensor for part in artifact.plan.parts}:
        assert torch.equal(back.read(name), artifact.read(name).float())  # one was added to norms, and taken away
    with pytest.raises(UsageError):
        export(artifacts["gemma"], tmp_path / "exact", "gguf-exact")
    near = export(artifacts["gemma"], tmp_path / "exact", "gguf-exact", reencode=True)
    assert near.check.exact and not near.exact and near.changes


def test_a_named_type(artifacts: dict[str, Path], tmp_path: Path) -> None:
    done, file, _ = exported(artifacts["wide"], tmp_path / "wide", type="Q4_K")
    kinds = types_of(file)
    assert kinds["Q4_K"] == 13 and kinds["Q5_0"] == 2 and done.check.error > 0  # rows of 64 don't divide
    _, file, _ = exported(artifacts["plain"], tmp_path / "plain", type="Q8_0")
    assert set(types_of(file)) == {"Q4_0", "Q5_0"}  # what is exact in less stays
    _, file, _ = exported(artifacts["plain"], tmp_path / "small", type="IQ4_NL")
    assert set(types_of(file)) == {"Q4_0", "IQ4_NL"}


def test_codebook_types(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Points cost a fraction of what 4**-bits is; rows of 64 don't divide into their blocks."""
    errors = []
    for name in ("IQ2_XXS", "IQ3_S"):
        done, file, _ = exported(artifacts["wide"], tmp_path / name, type=name)
        assert types_of(file) == {name: 13, "IQ4_NL": 2}
        told = {note.partition(":")[0]: float(note.rpartition(" ")[2]) for note in done.check.notes}
        errors.append(told[name])
    assert errors[0] < 0.2 and errors[1] < 0.04


def test_a_mixture_of_types(artifacts: dict[str, Path], tmp_path: Path) -> None:
    kinds = "IQ3_XXS,embedding=Q6_K,attention=Q4_K,v_proj=Q5_K"
    _, file, _ = exported(artifacts["wide"], tmp_path / "mixed", type=kinds)
    found = {name: tensor.type_name for name, tensor in file.tensors.items()}
    assert found["token_embd.weight"] == "Q6_K" and found["blk.0.ffn_down.weight"] == "IQ3_XXS"
    assert found["blk.1.attn_q.weight"] == "Q4_K" and found["blk.1.attn_v.weight"] == "Q5_K"
    for wrong, word in (("Q4_K,Q5_K", "all others twice"), ("mlp=Q4_K,mlp=Q5_K", "mlp twice"), ("mlp=Q4", "'Q4'")):
        with pytest.raises(UsageError, match=word):
            find("gguf", type=wrong)
    with pytest.raises(UsageError, match="no 'experts' in this model") as caught:
        export(artifacts["wide"], tmp_path / "out", "gguf", options={"type": "experts=Q4_K"})
    assert "attention" in caught.value.hint and "down_proj" in caught.value.hint


def test_a_looser_bound_gives_smaller_types(artifacts: dict[str, Path]) -> None:
    artifact = Artifact.open(artifacts["wide"])
    bits = [sum(choose(artifact, part, "", loss).bits for part in artifact.plan.parts) for loss in (0.0, 0.1, 10.0)]
    assert bits[0] >= bits[1] > bits[2]


def test_types_that_do_not_fit_fall_back() -> None:
    assert [fitting("Q4_K", cols).name for cols in (512, 640, 100)] == ["Q4_K", "Q5_0", "F16"]
    codebooks = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
    assert {fitting(name, 640).name for name in codebooks} == {"IQ4_NL"}
    assert fitting("Q8_0", 96).name == "Q8_0" and fitting("Q8_0", 40).bits == 16


def test_refused_before_anything_is_written(artifacts: dict[str, Path], tmp_path: Path) -> None:
    for name, word in (("opt", "'opt' can't be written"), ("biased", "no place for the tensor")):
        with pytest.raises(ModelError, match=word) as caught:
            export(artifacts[name], tmp_path / "out", "gguf")
        assert caught.value.hint and not (tmp_path / "out").exists()
    for options, word in (({"type": "Q4_X"}, "unknown ggml type"), ({"loss": -1.0}, "loss=-1.0")):
        with pytest.raises(UsageError, match=word):
            find("gguf", **options)


def test_a_damaged_file_is_found(artifacts: dict[str, Path], tmp_path: Path) -> None:
    artifact, target = Artifact.open(artifacts["plain"]), find("gguf")
    exported(artifacts["plain"], tmp_path / "out")
    path = tmp_path / "out" / "model.gguf"
    tensor = read_gguf(path).tensors["blk.0.ffn_up.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.start + 7] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"blk\.0\.ffn_up\.weight' loses"):
        target.check(artifact, tmp_path / "out")


def test_metadata_of_the_file(artifacts: dict[str, Path], tmp_path: Path) -> None:
    exported(artifacts["gemma"], tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "gemma3" and values["GGUF.version"] == 3
    assert values["tokenizer.ggml.model"] == "gpt2" and values["tokenizer.ggml.bos_token_id"] == 0
    assert all(tensor.data_offset % 32 == 0 and len(tensor.name) <= 64 for tensor in reader.tensors)


@pytest.mark.parametrize("family", ["gemma", "gemma2", "phi3"])
def test_families_come_back(family: str, artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    """The file is read as the model it was written from, and computes what that computes."""
    artifact = Artifact.open(artifact_of(family))
    _, _, back = exported(artifact.folder, tmp_path / "out", type="Q8_0")
    for key in ("model_type", "sliding_window", "head_dim", "tie_word_embeddings", "attn_logit_softcapping"):
        assert back.config.get(key) == artifact.config.get(key), key
    model = transformers.AutoModelForCausalLM.from_pretrained(back.folder, dtype=torch.float32).eval()
    want = logits(artifact.folder)
    with torch.no_grad():
        assert float((model(input_ids=ids).logits - want).norm() / want.norm()) < 0.02
