"""Artifacts read by transformers: the model `from_pretrained` gives has packed weights and computes what ours does."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import tailorbird
from tailorbird.artifact.manifest import Manifest
from tailorbird.errors import ArtifactError, ModelError, UsageError
from tailorbird.runtime.hf_quantizer import TailorbirdConfig
from tailorbird.runtime.load import load
from tailorbird.runtime.modules import Packed, PackedLinear, held_bytes

_targets = run_path(str(Path(__file__).parents[1] / "artifact" / "targets" / "conftest.py"))
tiny = pytest.fixture(scope="module")(_targets["tiny"].__wrapped__)
artifact_of = pytest.fixture(scope="module")(_targets["artifact_of"].__wrapped__)
ids = pytest.fixture(_targets["ids"].__wrapped__)

FAMILIES = ["llama", "untied", "gemma3", "opt"]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, artifact_of: Callable[..., Path]) -> Path:
    return artifact_of(request.param)


@pytest.fixture
def llama(artifact_of: Callable[..., Path]) -> Path:
    return artifact_of("llama")


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def packed_layers(model: torch.nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(layer, Packed)}


@torch.no_grad()
def test_logits_are_ours_and_weights_stay_packed(folder: Path, ids: torch.Tensor, kernels: str) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    ours = load(folder)
    assert not any(info.values())
    assert not model.training and model.dtype == torch.float32
    assert torch.equal(model(ids).logits, ours.logits(ids))
    assert packed_layers(model) == packed_layers(ours.module)
    assert held_bytes(model) == ours.nbytes
    assert not hasattr(model.config, "transformers_weights")


def test_text_is_that_of_our_module(folder: Path, ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 1}
    assert torch.equal(model.generate(ids, **settings), load(folder).module.generate(ids, **settings))  # type: ignore[operator]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_tokenizer_is_that_of_the_model(artifact_of: Callable[..., Path], family: str) -> None:
    folder = artifact_of(family)
    packed = AutoTokenizer.from_pretrained(folder)
    plain = AutoTokenizer.from_pretrained(folder.parent / "model")
    text = "The tailorbird stitches leaves."
    assert type(packed) is type(plain)
    assert packed(text)["input_ids"] == plain(text)["input_ids"]
    assert packed.special_tokens_map == plain.special_tokens_map
    assert packed.name_or_path == str(folder)


def test_pipeline_from_a_folder(llama: Path) -> None:
    settings = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    from_folder = transformers.pipeline("text-generation", model=str(llama), device="cpu")
    from_parts = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    (first,), (second,) = (pipe("The tailorbird", **settings) for pipe in (from_folder, from_parts))
    assert first == second and first["generated_text"]


def test_activations_can_be_chosen(llama: Path, ids: torch.Tensor) -> None:
    config = transformers.AutoConfig.from_pretrained(llama)
    config.quantization_config["activations"] = "fp32"
    model = AutoModelForCausalLM.from_pretrained(llama, config=config)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, load(llama, activations="fp32").logits(ids))
    config.quantization_config["activations"] = "int3"
    with pytest.raises(UsageError, match="int3"):
        AutoModelForCausalLM.from_pretrained(llama, config=config)


def test_another_dtype_is_not_taken(llama: Path, ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, load(llama).logits(ids))


def test_there_is_nothing_to_tie_or_to_save(llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.tie_weights()
    assert isinstance(model.lm_head, PackedLinear) and model.lm_head.native is model.model.embed_tokens.native
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "saved")
    assert "copy the artifact's folder" in caplog.text
    assert not (tmp_path / "saved").exists()


def test_one_device(llama: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = AutoModelForCausalLM.from_pretrained(llama, device_map={"": "cpu"})
    with torch.no_grad():
        assert torch.equal(model(ids).logits, load(llama).logits(ids))
    with pytest.raises(UsageError, match="lies on one device, not on cpu, meta"):
        AutoModelForCausalLM.from_pretrained(
            llama, device_map={"model": "disk", "lm_head": "cpu"}, offload_folder=tmp_path
        )


def test_a_plain_model_loads_as_before(llama: Path, ids: torch.Tensor, tiny: SimpleNamespace, tmp_path: Path) -> None:
    module = tiny.make_model("llama", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, module(ids).logits)
    assert not packed_layers(model) and not hasattr(model, "hf_quantizer")
    with pytest.raises(ValueError, match="pre-quantized"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=TailorbirdConfig())
    assert AutoTokenizer.from_pretrained(tmp_path / "model").name_or_path == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["block-001.safetensors", "head.safetensors", "config.json", "tokenizer.json.xz"])
def test_a_damaged_artifact_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-3] ^= 0x20
    (copy / name).write_bytes(data)
    for reader in (AutoModelForCausalLM, AutoTokenizer):
        with pytest.raises((ArtifactError, OSError), match=name if name != "config.json" else "config"):
            reader.from_pretrained(copy)


def test_parts_of_an_artifact_are_refused(copy: Path) -> None:
    (copy / "block-001.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"block-001\.safetensors is missing"):
        AutoModelForCausalLM.from_pretrained(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not a whole artifact"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_a_model_of_another_kind_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match="lm_head"):
        transformers.AutoModelForSequenceClassification.from_pretrained(llama)


def test_an_artifact_alone_is_read(llama: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(llama)
    with pytest.raises(UsageError, match="no artifact was given"):
        transformers.LlamaForCausalLM.from_pretrained(None, config=config, state_dict={})


def test_code_that_lies_beside_is_not_run(copy: Path, ids: torch.Tensor) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text("raise SystemExit('this ran')")
    Manifest.of(copy, Manifest.read(copy).weights).write(copy)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(copy)(ids).logits, load(copy).logits(ids))


def test_the_export_is_plain(llama: Path, tmp_path: Path) -> None:
    tailorbird.export(llama, tmp_path / "plain", "hf")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert not packed_layers(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"))


# Asked for by peft.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_learns_beside_packed_layers(llama: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(llama)
    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(base, peft.LoraConfig(**settings))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.device.type for parameter in learned} == {"cpu"}
    descent = torch.optim.Adam(learned, lr=0.01)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        descent.zero_grad()
        loss.backward()
        descent.step()
    assert losses[2] < losses[1] < losses[0]
    with pytest.raises(ModelError, match="values of a packed weight"):
        model.merge_adapter()
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter")
    at_once = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model.eval()(ids).logits
        assert torch.equal(again(ids).logits, expected) and torch.equal(at_once(ids).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [True, False], ids=["a model", "a folder"])
@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")  # lm-eval hands on what the folder says
def test_lm_eval_scores_what_we_score(llama: Path, loaded: bool) -> None:
    lm_eval = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    from tailorbird.tasks.harness import adapter

    model = AutoModelForCausalLM.from_pretrained(llama) if loaded else str(llama)
    tokenizer = AutoTokenizer.from_pretrained(llama) if loaded else None
    theirs = lm_eval.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu")
    pairs = [("The tailorbird", " stitches leaves"), ("It sews with", " spider silk")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for (found, greedy), (ours, ours_greedy) in zip(
        theirs.loglikelihood(asked), adapter(load(llama)).loglikelihood(asked), strict=True
    ):
        assert found == pytest.approx(ours, rel=1e-4) and greedy == ours_greedy
