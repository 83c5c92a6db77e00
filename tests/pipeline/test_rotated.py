"""Jobs on rotated models: the artifact is an ordinary model of its family, and computes what the original does."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.verify import verify
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import UsageError
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.estimate import estimate
from tailorbird.pipeline.quality import evaluate
from tailorbird.pipeline.refit import export_refitted
from tailorbird.plan import Plan
from tailorbird.runtime.decoder import Settings, native_decoder
from tailorbird.runtime.load import load

SMALL = {"samples": 8, "length": 32}
IDS = torch.randint(2, 300, (1, 23), generator=torch.Generator().manual_seed(1))
HEADS = {"rotate_residual": False}


def original_logits(folder: Path) -> torch.Tensor:
    model = Model.open(open_checkpoint(folder))
    model.fill("model")
    if model.tied:
        model.module.tie_weights()
    else:
        model.fill("lm_head")
    with torch.no_grad():
        return torch.as_tensor(model.module(input_ids=IDS, use_cache=False).logits)[0]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("family", "method", "options"),
    [
        ("llama", "quarot", {}),
        ("untied", "quarot", {}),
        ("untied", "spinquant", {}),
        ("llama", "rtn", {"rotate": "learned"}),
        ("gemma3", "quarot", HEADS),
        ("gemma3", "spinquant", HEADS),
        ("untied", "slim-llm", {"rotate": "hadamard", "search": 2}),
    ],
)
def test_artifact_is_an_ordinary_model(
    model_of: Any, text: Path, tmp_path: Path, family: str, method: str, options: dict[str, Any]
) -> None:
    folder = model_of(family)
    given: dict[str, Any] = {"method": method, "data": text, "options": options, **SMALL}
    artifact = compress(folder, tmp_path / "a", budget="11bits", **given).artifact
    ready = prepare(folder, method, "11bits", options)
    assert sum(path.stat().st_size for path in artifact.folder.glob("*.safetensors")) <= ready.weight_bytes
    assert verify(artifact.folder).digest == artifact.digest
    wanted, model = original_logits(folder), load(artifact.folder, activations="fp32")
    found = model.logits(IDS)[0]
    assert distance(found, wanted) < 0.05
    decoder = native_decoder(model.module, Settings("fp32", "bf16"))
    assert decoder is not None
    assert distance(decoder.start(64).push(IDS[0].tolist(), IDS.shape[1]), found) < 5e-3
    words = tmp_path / "words.txt"
    words.write_text(text.read_text()[:1500])
    quality = evaluate(artifact, folder, tokens=62, window=32, text=words)
    assert quality.kl is not None and quality.kl < 0.01


@pytest.mark.usefixtures("here")
def test_bits_of_an_untied_head_are_counted_over_the_originals_weights(model_of: Any, tmp_path: Path) -> None:
    plain, turned = (prepare(model_of("llama"), "rtn", "5bits", {"rotate": how}) for how in ("none", "hadamard"))
    assert [part.name for part in turned.plan.parts] == [*(part.name for part in plain.plan.parts), "lm_head"]
    assert turned.plan.parts[-1].copy_of == "model.embed_tokens" and not plain.plan.parts[0].copy_of
    assert turned.plan.numel == plain.plan.numel == turned.model.numel
    assert turned.bits <= 5
    assert Plan.from_json(turned.plan.to_json()) == turned.plan
    artifact = compress(model_of("llama"), tmp_path / "a", method="rtn", budget="5bits", options={"rotate": "hadamard"})
    assert artifact.artifact.bits <= 5 and Artifact.open(tmp_path / "a").config["tie_word_embeddings"] is False


def test_a_copy_of_nothing(model_of: Any) -> None:
    plan = prepare(model_of("llama"), "rtn", "5bits", {"rotate": "hadamard"}).plan.to_json()
    for wrong in ("lm_head", "model.layers.0.mlp.up_proj", "nothing"):
        plan["parts"][-1]["copy_of"] = wrong
        with pytest.raises(UsageError, match="no copy"):
            Plan.from_json(plan)


@pytest.mark.usefixtures("here")
def test_killed_and_resumed(model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"method": "spinquant", "budget": "4bits", "data": text, **SMALL}
    whole = compress(model_of("untied"), tmp_path / "a", **given).artifact.digest
    module = sys.modules[compress.__module__]
    fit, calls = module.fit_piece, []

    def dies(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args)

    monkeypatch.setattr(module, "fit_piece", dies)
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("untied"), tmp_path / "b", **given)
    monkeypatch.setattr(module, "fit_piece", fit)
    assert compress(model_of("untied"), tmp_path / "b", **given, resume=True).artifact.digest == whole


@pytest.mark.parametrize(("family", "says"), [("gemma3", "norm with gains"), ("opt", "hang together")])
def test_models_that_can_not_be_rotated(model_of: Any, family: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        prepare(model_of(family), "quarot", "4bits")
    assert caught.value.hint


def test_a_module_from_memory(tiny: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="hang together"):
        prepare(tiny.make_mlp(), "quarot", "4bits")


@pytest.mark.usefixtures("here")
def test_the_original_can_be_fitted_anew_where_its_rotation_is_known(model_of: Any, text: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"method": "rtn", "budget": "5bits", "data": text, **SMALL}
    compress(model_of("llama"), tmp_path / "a", options={"rotate": "hadamard"}, **given)
    export_refitted(tmp_path / "a", tmp_path / "gguf", "gguf", model_of("llama"), data=text, **SMALL)
    compress(model_of("llama"), tmp_path / "b", options={"rotate": "learned"}, **given)
    with pytest.raises(UsageError, match="learned"):
        export_refitted(tmp_path / "b", tmp_path / "none", "gguf", model_of("llama"), data=text, **SMALL)


def test_learning_is_part_of_the_estimate(model_of: Any) -> None:
    stages = [estimate(prepare(model_of("untied"), name, "4bits"), 4096).seconds for name in ("quarot", "spinquant")]
    assert "rotate" not in stages[0] and stages[1]["rotate"] > 0
