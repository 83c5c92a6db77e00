"""Weights of every kind of format, from the file to the running model, and to other runtimes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.artifact import Artifact
from tailorbird.artifact.export import export
from tailorbird.artifact.targets import find
from tailorbird.artifact.verify import verify
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import LevelCodes, PlaneSum, TrellisCodes
from tailorbird.kernels.native import available
from tailorbird.runtime.load import load


def test_it_has_every_kind(family: Path) -> None:
    kinds = Counter(spec.kind for spec in Artifact.open(family).plan.specs.values())
    own = ("planes", "sum", "levels", "trellis")
    assert set(kinds) == {*own, "rows"} and min(kinds[k] for k in own) >= 2
    verify(family)


def test_rows_are_read_alone(family: Path) -> None:
    artifact = Artifact.open(family)
    for part in artifact.plan.parts:
        whole = artifact.planes(part.name).dequantize()
        assert torch.equal(artifact.planes(part.name, 3, 7).dequantize(), whole[3:7])
        assert torch.equal(artifact.read_rows(part.tensor, 5, 6), whole[5:6])


def test_it_runs_packed(family: Path) -> None:
    packed, dense = load(family, activations="fp32"), load(family, dense=True)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        one, other = packed.module(ids).logits, dense.module(ids).logits
    assert float((one - other).norm() / other.norm()) < 1e-4
    kinds = {type(m.packed): m.native is not None for m in packed.module.modules() if hasattr(m, "packed")}
    assert kinds[PlaneSum] == kinds[TrellisCodes] == available() and not kinds[LevelCodes]
    state = packed.module.state_dict()
    packed.module.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(packed.module(ids).logits, one)


def test_a_changed_level_or_scale_is_found(family: Path, tmp_path: Path) -> None:
    """Digests tell what a weight means: another table under the same codes is another weight."""
    folder = tmp_path / "a"
    shutil.copytree(family, folder)
    plan = json.loads((folder / "plan.json").read_text())
    entry = next(entry for entry in plan["parts"] if entry["format"].get("kind") == "levels")
    entry["format"] |= {"kind": "planes", "offset": "none"}
    del entry["format"]["table"]
    (folder / "plan.json").write_text(json.dumps(plan))
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "plan.json").read_bytes()
    manifest["files"]["plan.json"] = [len(data), hashlib.sha256(data).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="differs from the weight that was fitted"):
        verify(folder)


def test_plain_numbers_carry_everything(family: Path, tmp_path: Path) -> None:
    done = export(family, tmp_path / "hf", "hf", options={"dtype": "fp32"})
    assert done.exact and not done.changes


def test_what_a_target_lacks_is_refused_with_a_way_out(family: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(find("compressed-tensors")), "refuse", lambda self, artifact: None)
    with pytest.raises(UsageError, match="a sum of 1\\+1") as caught:
        export(family, tmp_path / "ct", "compressed-tensors")
    assert "NormalFloat" in caught.value.message and "--target compressed-tensors" in caught.value.hint
