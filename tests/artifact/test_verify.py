"""Verification: what it says, and what it refuses beyond the digests of the files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tailorbird
from tailorbird.artifact import Artifact
from tailorbird.artifact.verify import verify
from tailorbird.errors import ArtifactError, ModelError, TailorbirdError
from tailorbird.formats.safetensors_header import read_header


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def _refit(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _flip(folder: Path, tensor: str) -> None:
    for path in folder.glob("*.safetensors"):
        info = read_header(path, error=ArtifactError).get(tensor)
        if info:
            data = bytearray(path.read_bytes())
            data[info.start + 5] ^= 4
            path.write_bytes(data)
            return
    raise AssertionError(tensor)


def test_a_valid_artifact(base: Path) -> None:
    found, artifact = verify(base), Artifact.open(base)
    assert (found.digest, found.nbytes, found.bits) == (artifact.digest, artifact.nbytes, artifact.bits)
    assert len(found.checks) == 5
    formats = {(spec.offset, spec.scale, spec.column_order) for spec in artifact.plan.specs.values()}
    assert len(formats) > 4  # the base has every kind of array, or the tests here prove less


def test_a_flipped_bit_of_a_plane(copy: Path) -> None:
    part = Artifact.open(copy).plan.parts[3].name
    _flip(copy, f"{part}.planes")
    with pytest.raises(ArtifactError, match="differs from its digest in the manifest"):
        verify(copy)
    _refit(copy)
    Artifact.open(copy)
    with pytest.raises(ArtifactError, match=f"{part} differs from the weight that was fitted"):
        verify(copy)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 1), ("num_hidden_layers", 3), ("head_dim", 2**40)])
def test_a_configuration_of_another_model(copy: Path, key: str, value: int) -> None:
    config = json.loads((copy / "config.json").read_text()) | {key: value}
    (copy / "config.json").write_text(json.dumps(config))
    _refit(copy)
    with pytest.raises((ArtifactError, ModelError)):
        verify(copy)


def test_code_named_by_a_configuration_is_not_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "evil--model.Model"}, "attn_implementation": "evil/kernels"}
    config |= {"_attn_implementation": "evil/kernels", "quantization_config": {"quant_method": "evil"}}
    (copy / "config.json").write_text(json.dumps(config))
    _refit(copy)
    assert len(verify(copy).checks) == 5


def test_weights_are_the_planes(base: Path) -> None:
    artifact = Artifact.open(base)
    for part in artifact.plan.parts:
        whole = artifact.read(part.tensor)
        assert torch.equal(whole, artifact.planes(part.name).dequantize())
        assert torch.equal(whole[5:11], artifact.read_rows(part.tensor, 5, 11))


def test_as_a_command(base: Path, copy: Path) -> None:
    command = [sys.executable, "-m", "tailorbird.artifact.verify"]
    assert subprocess.run([*command, str(base)], capture_output=True, check=False).returncode == 0
    (copy / "plan.json").unlink()
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 6 and "plan.json is missing" in done.stderr


def test_the_root_of_all_errors(tmp_path: Path) -> None:
    with pytest.raises(TailorbirdError, match=r"no manifest\.json"):
        tailorbird.verify(tmp_path)
