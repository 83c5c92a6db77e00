"""Jobs whose method folds scales into norms: the artifact is an ordinary model, and computes what the original does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.verify import verify
from tailorbird.checkpoint import open_checkpoint
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.quality import evaluate

SMALL = {"samples": 8, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("gemma3", {"compensate": True}),
        ("untied", {"rotate": "hadamard"}),
        ("opt", {}),
    ],
)
def test_awq(model_of: Any, text: Path, tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    folder = model_of(family)
    given: dict[str, Any] = {
        "method": "awq",
        "budget": "8bits",
        "data": text,
        "options": {"grid": 4, "rows": False} | options,
        **SMALL,
    }
    artifact = compress(folder, tmp_path / "a", **given).artifact
    ready = prepare(folder, "awq", "8bits", given["options"])
    assert sum(path.stat().st_size for path in artifact.folder.glob("*.safetensors")) == ready.weight_bytes
    assert verify(artifact.folder).digest == artifact.digest
    words = tmp_path / "words.txt"
    words.write_text(text.read_text()[:1500])
    quality = evaluate(artifact, folder, tokens=60, window=31, text=words)
    assert quality.kl is not None and quality.kl < 0.01
    if family == "llama":
        original, stored = Model.open(open_checkpoint(folder)), Artifact.open(tmp_path / "a")
        norms = [name for name in original.kept() if "layers.0" in name and "layernorm" in name]
        assert norms and not any(torch.equal(stored.read(name), original.read(name)) for name in norms)
