"""GGUF files fitted to the original: less output error than the artifact encoded anew, and checked bit for bit."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import transformers

import tailorbird.artifact.verify as verifying
from tailorbird.artifact.export import export
from tailorbird.artifact.reader import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import UsageError
from tailorbird.pipeline import compress
from tailorbird.pipeline.refit import export_refitted

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its text and an artifact of it."""
    folder = tmp_path_factory.mktemp("refit")
    TINY["make_model"]("llama", folder / "model", hidden_size=256, intermediate_size=256)
    text = TINY["make_text"](folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        compress(folder / "model", folder / "artifact", method="rtn", budget="4bits", data=text, **TINY["SMALL"])
    return folder


@pytest.mark.parametrize("kind", ["Q3_K", "IQ2_S", "IQ3_S"])
def test_nearer_to_the_original(kind: str, made: Path, tmp_path: Path) -> None:
    small = TINY["SMALL"] | {"samples": 32}
    options = {"type": kind}
    plain = export(made / "artifact", tmp_path / "plain", "gguf", options=options)
    done = export_refitted(
        *(made / "artifact", tmp_path / "fitted", "gguf", made / "model"),
        options=options,
        data=made / "text.txt",
        **small,
    )
    assert done.nbytes == plain.nbytes and not done.exact and done.check.error == 0
    assert "15 parts are the original's" in done.check.why
    logits = []
    ids = torch.tensor([TINY["make_tokenizer"]().encode((made / "text.txt").read_text()).ids[:48]])
    for folder in (made / "model", tmp_path / "plain", tmp_path / "fitted"):
        path = folder / "model.gguf"
        source = open_checkpoint(path, cache=tmp_path / "cache").folder if path.exists() else folder
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        with torch.no_grad():
            logits.append(model(ids).logits)
    original, encoded, fitted = logits
    assert (fitted - original).square().mean() < 0.8 * (encoded - original).square().mean()
    assert (tmp_path / "fitted/tailorbird-export.json").is_file()


def test_the_same_again(made: Path, tmp_path: Path) -> None:
    digests = {
        export_refitted(
            made / "artifact", tmp_path / name, "gguf", made / "model", data=made / "text.txt", **TINY["SMALL"]
        ).digest
        for name in ("one", "two")
    }
    assert len(digests) == 1


def test_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no types to fit"):
        export_refitted(made / "artifact", tmp_path / "out", "hf", made / "model")
    with pytest.raises(UsageError, match="exists"):
        export_refitted(made / "artifact", tmp_path, "gguf", made / "model")
    TINY["make_model"]("llama", tmp_path / "other")
    with pytest.raises(UsageError):
        export_refitted(made / "artifact", tmp_path / "out", "gguf", tmp_path / "other")
    assert not (tmp_path / "out").exists() and Artifact.open(made / "artifact")
