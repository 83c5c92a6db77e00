"""The exported graph gives the device's scores in onnxruntime, whatever the patch, without a new session."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.tailor import export as exporting
from tailorbird.tailor.device import load
from tailorbird.tailor.export import GOLDEN, WEB, export, padded
from tailorbird.tailor.head import NAMES
from tailorbird.tailor.patch import full, identity
from tailorbird.tailor.wire import encode
from tailorbird.zoo.recommenders import folder

from .conftest import made, random_head

HISTORIES: list[list[int]] = [[], [7], [3, 1, 4, 1, 5], list(range(1, 30))]


def session(out: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])


def exported(tmp_path: Path, name: str, **sizes: int) -> tuple[Any, Any, Path]:
    """The torch model, the device, and the export."""
    model = made(name, **sizes)
    folder.save(tmp_path / "m", model, tuple(f"film {i}" for i in range(model.shape.items)), {})
    done = export(tmp_path / "m", tmp_path / "x")
    assert done.error < 1e-5 and done.personal == NAMES and done.nbytes == (tmp_path / "x/model.onnx").stat().st_size
    return model, load(tmp_path / "m"), tmp_path / "x"


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("sizes", [{}, {"layers": 1, "heads": 4, "length": 5}], ids=["two layers", "one layer"])
def test_scores_are_the_devices(tmp_path: Path, name: str, sizes: dict[str, int]) -> None:
    model, device, out = exported(tmp_path, name, **sizes)
    run = session(out)
    for head in ({}, random_head(1), random_head(2)):  # patches come one after another into the same session
        if head:
            device.take(encode(full(head, device.manifest), device.trunk, device.manifest))
        personal = {key: device.tensors[key] for key in NAMES}
        wanted = np.stack([device.scores(history) for history in HISTORIES])
        together = run.run(["scores"], {"ids": padded(device, HISTORIES)} | personal)[0]
        np.testing.assert_allclose(together, wanted, atol=1e-5)
        for history, one in zip(HISTORIES, wanted, strict=True):
            state, scores = run.run(["state", "scores"], {"ids": padded(device, [history])} | personal)
            np.testing.assert_allclose(scores[0], one, atol=1e-5)
            np.testing.assert_allclose(state[0], device.state(history), atol=2e-6)
    with torch.no_grad():
        device.tensors = device.trunk
        ids = model.window([np.array(history, np.int64) for history in HISTORIES[1:]])
        plain = run.run(["scores"], {"ids": ids.numpy()} | {key: device.trunk[key] for key in NAMES})[0]
        np.testing.assert_allclose(plain, model.scores(model.last(ids)).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_a_patch_that_changes_nothing_is_the_trunk(tmp_path: Path, name: str) -> None:
    _, device, out = exported(tmp_path, name)
    run, ids = session(out), padded(device, HISTORIES)
    before = run.run(["state", "scores"], {"ids": ids} | {key: device.trunk[key] for key in NAMES})
    device.take(encode(identity("delta", device.trunk, device.manifest), device.trunk, device.manifest))
    after = run.run(["state", "scores"], {"ids": ids} | {key: device.tensors[key] for key in NAMES})
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    # A head whose last layer is zero adds nothing, whatever its first one is: the bits are those of the state itself.
    half = {key: random_head()[key] if key.startswith("head.0") else device.trunk[key] for key in NAMES}
    np.testing.assert_array_equal(run.run(["scores"], {"ids": ids} | half)[0], before[1])


def test_pads_change_nothing(tmp_path: Path) -> None:
    for name in ("sasrec", "gru4rec"):
        _, device, out = exported(tmp_path / name, name)
        run, personal = session(out), {key: random_head()[key] for key in NAMES}
        bare = run.run(["scores"], {"ids": np.array([[3, 1, 4]])} | personal)[0]
        behind = run.run(["scores"], {"ids": np.array([[0, 0, 0, 3, 1, 4]])} | personal)[0]
        np.testing.assert_allclose(bare, behind, atol=1e-5)
        assert device.shape["length"] == 8


def test_golden_scores_and_versions(tmp_path: Path) -> None:
    _, device, out = exported(tmp_path, "sasrec", width=128)
    found = json.loads((out / GOLDEN).read_text())
    assert {case["patched"] for case in found["cases"]} == {False, True} and len(found["cases"]) == 8
    for case in found["cases"]:
        device.tensors = device.trunk
        if case["patched"]:
            device.take(base64.b64decode(found["patch"]))
        np.testing.assert_allclose(device.scores(case["history"])[case["items"]], case["scores"], rtol=1e-5)
    pinned = json.loads(Path(__file__).with_name("web").joinpath("package.json").read_text())["dependencies"]
    assert pinned == json.loads((out / "package.json").read_text())["dependencies"] == {"onnxruntime-web": WEB}


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(tmp_path / "b", made("bert4rec"), (), {})
    with pytest.raises(ArtifactError, match="bert4rec"):
        export(tmp_path / "b", tmp_path / "x")
    folder.save(tmp_path / "s", made("sasrec"), (), {})
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(ArtifactError, match="differ"):
        export(tmp_path / "s", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(UsageError, match="exists"):
        export(tmp_path / "s", tmp_path / "b")
    monkeypatch.setattr(exporting, "_LIMIT", 100)
    with pytest.raises(UsageError, match="2 GB"):
        export(tmp_path / "s", tmp_path / "x")
