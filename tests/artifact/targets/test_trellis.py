"""Exports of trellis artifacts, rows in classes too: targets read the weights back as near as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tailorbird
from tailorbird.artifact import Artifact
from tailorbird.artifact.targets.gguf_types import allowed_error, relative_error
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import UsageError
from tailorbird.formats import RowSpec


@pytest.fixture(scope="module", params=["3bits", "5bits"])
def artifact(request: pytest.FixtureRequest, artifact_of: Any) -> Artifact:
    return Artifact.open(artifact_of("llama", "trellis", request.param, options={"beam": 8}))


def kinds(artifact: Artifact) -> set[str]:
    specs = artifact.plan.specs.values()
    return {form.kind for spec in specs for form in (spec.formats if isinstance(spec, RowSpec) else (spec,))}


def test_hf(artifact: Artifact, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    import transformers

    assert "trellis" in kinds(artifact)
    done = tailorbird.export(artifact.folder, tmp_path / "out", "hf", options={"dtype": "fp32"})
    assert done.exact and done.check.error == 0 and done.offer is None
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, logits(artifact.folder))


def test_gguf(artifact: Artifact, tmp_path: Path) -> None:
    done = tailorbird.export(artifact.folder, tmp_path / "out", "gguf")
    back = open_checkpoint(tmp_path / "out" / "model.gguf", cache=tmp_path / "cache")
    lost = whole = 0.0
    for part in artifact.plan.parts:
        got, want = back.read(part.tensor).float(), artifact.read(part.tensor).float()
        assert relative_error(got, want) < 2 * allowed_error(artifact.plan.specs[part.name], 0.1)
        lost, whole = lost + float((got - want).square().sum()), whole + float(want.square().sum())
    assert not done.exact and done.check.lost == pytest.approx(lost / whole, rel=0.02)
    assert done.offer is not None and "--target gguf-exact" in done.advice and done.offer.exported == done.nbytes


@pytest.mark.parametrize(
    ("target", "library"),
    [("gguf-exact", "gguf"), ("onnx", "onnxruntime"), ("compressed-tensors", "compressed_tensors")],
)
def test_others_stop_or_take_the_nearest_format(target: str, library: str, artifact: Artifact, tmp_path: Path) -> None:
    pytest.importorskip(library)
    with pytest.raises(UsageError, match="can't carry") as caught:
        tailorbird.export(artifact.folder, tmp_path / "out", target)
    assert f"--target {target}" in (caught.value.hint or "") and not (tmp_path / "out").exists()
    done = tailorbird.export(artifact.folder, tmp_path / "out", target, reencode=True)
    assert not done.exact and all(0 <= change.lost < 0.5 for change in done.changes)
    # Planes may fit into wider ones as they are; trellis codes fit into nothing else.
    lost = [change.lost for change in done.changes if change.old.kind == "trellis"]
    assert lost and min(lost) > 0
    assert tailorbird.verify(tmp_path / "out").digest == done.digest
