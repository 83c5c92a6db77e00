"""ONNX: rules without the library; with it, weights bit for bit and logits within what is stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tailorbird
from tailorbird.anatomy import Part
from tailorbird.artifact import Artifact, targets
from tailorbird.artifact.onnx.weights import runs, width
from tailorbird.errors import ModelError, UsageError
from tailorbird.formats import PlaneSpec

PART = Part("layer", (8, 96), "mlp", 0)


def computed(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found: torch.Tensor = torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])
    return found


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_what_is_carried() -> None:
    target = targets.find("onnx")
    for spec in (
        PlaneSpec.uniform(3, 96, 16),
        PlaneSpec((1, 8, 3), 32, column_order=True),
        PlaneSpec.uniform(8, 96, 96, "none", "fp16"),
    ):
        assert target.carried(PART, spec) is spec
    assert target.carried(PART, PlaneSpec.uniform(3, 96, 12)) == PlaneSpec.uniform(3, 96, 16)
    assert target.carried(PART, PlaneSpec.uniform(3, 96, 16, "float")).offset == "integer"
    odd = PlaneSpec.uniform(3, 60, 12, "float")
    assert target.carried(replace(PART, shape=(8, 60)), odd) is odd


def test_runs() -> None:
    assert [width(bits) for bits in range(1, 9)] == [2, 2, 4, 4, 8, 8, 8, 8]
    order = torch.arange(64).flip(0)
    found = runs(PlaneSpec((4, 1, 3, 7), 16, column_order=True), order)
    assert [(run.bits, run.groups) for run in found] == [(2, [1]), (4, [0, 2]), (8, [3])]
    assert found[0].columns.tolist() == list(range(47, 31, -1))


@pytest.mark.parametrize("family", ["llama", "untied", "gemma3"])
def test_logits(family: str, artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    """With float32 activations the graph is ours to rounding; with 8-bit ones to what the target states."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    artifact = artifact_of(family)
    for level, most in ((1, 1e-5), (4, 0.1)):
        done = tailorbird.export(artifact, tmp_path / f"{level}", "onnx", options={"accuracy_level": level})
        assert done.exact and not done.changes and done.check.logits_error is not None
        error = difference(computed(tmp_path / f"{level}", ids), logits(artifact))
        assert error < most and done.check.logits_error < most
        tailorbird.verify(tmp_path / f"{level}")
    assert error > 1e-4  # the level reaches the products


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral"])
def test_families_like_llama(kind: str, artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    changes = {"model_type": kind} | ({"sliding_window": 6} if kind == "mistral" else {})
    artifact = artifact_of("untied", changes=changes)
    tailorbird.export(artifact, tmp_path / "out", "onnx", options={"accuracy_level": 1})
    assert difference(computed(tmp_path / "out", ids), logits(artifact)) < 1e-5


def test_mixed_groups_and_column_order(artifact_of: Any, ids: torch.Tensor, logits: Any, tmp_path: Path) -> None:
    """Three widths in one weight, stored columns permuted, one bit, no zero points, and rows of plain numbers."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    changes = {"intermediate_size": 120}
    plan = Artifact.open(artifact_of("llama", changes=changes)).plan
    specs = {}
    for number, part in enumerate(plan.parts):
        cols = part.shape[1]
        if cols == 120:
            specs[part.name] = PlaneSpec.uniform(3, cols, 12, "float")
        elif part.role == "embedding":
            specs[part.name] = PlaneSpec((4, 2, 8, 5), 16)
        else:
            offset = ("none", "integer")[number % 2]
            specs[part.name] = PlaneSpec((4, 1, 6, 2), 16, offset, ("u8", "fp16")[number % 2], column_order=True)  # type: ignore[arg-type]
    artifact = artifact_of("llama", method="gptq", budget=None, changes=changes, plan=replace(
        plan, method="gptq", options={"act_order": True}, specs=specs
    ))  # fmt: skip
    done = tailorbird.export(artifact, tmp_path / "out", "onnx", options={"accuracy_level": 1})
    assert done.exact and any("plain float32" in note for note in done.check.notes)
    assert difference(computed(tmp_path / "out", ids), logits(artifact)) < 1e-5


def test_the_table_is_stored_once(artifact_of: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    tailorbird.export(artifact_of("llama"), tmp_path / "out", "onnx")
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    tables = [tensor for tensor in graph.initializer if tensor.name.startswith("model.embed_tokens.0.codes")]
    offsets = {entry.value for tensor in tables for entry in tensor.external_data if entry.key == "offset"}
    assert len(tables) == 2 and len(offsets) == 1
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert products and all({"accuracy_level": 4}.items() <= _attributes(node).items() for node in products)


def _attributes(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def test_refused(artifact_of: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(ModelError, match="no ONNX graph for 'opt'"):
        tailorbird.export(artifact_of("opt"), tmp_path / "out", "onnx")
    with pytest.raises(UsageError, match="accuracy_level 3"):
        tailorbird.export(artifact_of("llama"), tmp_path / "out", "onnx", options={"accuracy_level": 3})
    assert not list(tmp_path.iterdir())
