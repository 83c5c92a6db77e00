"""Plain safetensors: transformers loads them and computes what we compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tailorbird
from tailorbird.artifact import Artifact, folder
from tailorbird.errors import UsageError


def loaded(path: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("family", ["llama", "untied", "gemma3", "opt"])
def test_logits_equal_ours(family: str, artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    artifact = artifact_of(family)
    done = tailorbird.export(artifact, tmp_path / "out", "hf", options={"dtype": "fp32"})
    assert done.exact and done.check.error == 0 and not done.changes
    assert torch.equal(loaded(tmp_path / "out", ids), logits(artifact))
    verified = tailorbird.verify(tmp_path / "out")
    assert verified.digest == done.digest and verified.nbytes == done.nbytes


def test_the_tokenizer_is_there(artifact_of: Any, tmp_path: Path) -> None:
    tailorbird.export(artifact_of("llama"), tmp_path / "out", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("The tailorbird sews")["input_ids"]
    assert ids[0] == 0 and tokenizer.decode(ids[1:]) == "The tailorbird sews"


@pytest.mark.parametrize("dtype, step", [("bf16", 2**-8), ("fp16", 2**-11)])
def test_halves_round_and_say_so(dtype: str, step: float, artifact_of: Any, tmp_path: Path) -> None:
    done = tailorbird.export(artifact_of("llama"), tmp_path / "out", "hf", options={"dtype": dtype})
    assert not done.exact and 0 < done.check.error <= step and dtype in done.check.why
    config = tailorbird.load(tmp_path / "out").config
    assert config["dtype"] == {"bf16": "bfloat16", "fp16": "float16"}[dtype]


def test_shards(artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(folder, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(folder, "CHUNK", 1000)
    tailorbird.export(artifact_of("llama"), tmp_path / "out", "hf", options={"dtype": "fp32"})
    shards = list((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 110_000 for path in shards)
    assert torch.equal(loaded(tmp_path / "out", ids), logits(artifact_of("llama")))
    tailorbird.verify(tmp_path / "out")


def test_a_module_without_configuration(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import tailorbird.artifact.verify as verifying

    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)
    torch.manual_seed(1)
    module = torch.nn.Sequential(tiny.make_mlp(), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 8))
    tailorbird.compress(module, tmp_path / "a", method="rtn", budget="6bits")
    done = tailorbird.export(tmp_path / "a", tmp_path / "out", "hf", options={"dtype": "fp32"})
    assert done.exact and done.check.parts == len(Artifact.open(tmp_path / "a").tensors)


def test_unknown_options_are_refused(artifact_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dtype 'fp8'"):
        tailorbird.export(artifact_of("llama"), tmp_path / "out", "hf", options={"dtype": "fp8"})
    with pytest.raises(UsageError, match="no option 'bits'"):
        tailorbird.export(artifact_of("llama"), tmp_path / "out", "hf", options={"bits": 3})
    with pytest.raises(UsageError, match="no target 'hof'") as caught:
        tailorbird.export(artifact_of("llama"), tmp_path / "out", "hof")
    assert "hf" in caught.value.hint
    assert not (tmp_path / "out").exists()
