"""What may be resumed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tailorbird.artifact.verify as verifying
from tailorbird.artifact import Artifact
from tailorbird.artifact.partial import JOB, partial_folder
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.pipeline import compress


def _stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verifying, "_verify_afresh", refuse)


@pytest.mark.usefixtures("here")
def test_a_finished_job_is_given_back(model_of: Any, tmp_path: Path) -> None:
    first = compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    again = compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits", resume=True)
    assert again.artifact.digest == first.artifact.digest and again.facts == first.facts
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == before
    assert JOB in before and JOB not in first.artifact.manifest.files
    with pytest.raises(UsageError, match="exists"):
        compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")


@pytest.mark.usefixtures("here")
def test_another_job_is_refused(model_of: Any, tmp_path: Path) -> None:
    compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")
    with pytest.raises(UsageError, match=r"from another job: plan differs"):
        compress(model_of("llama"), tmp_path / "a", method="rtn", budget="5bits", resume=True)
    with pytest.raises(UsageError, match=r"from another job: model, plan differ"):
        compress(model_of("untied"), tmp_path / "a", method="rtn", budget="4bits", resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="exists"):
        compress(model_of("llama"), tmp_path / "b", method="rtn", budget="4bits", resume=True)
    assert (tmp_path / "b" / "mine.txt").read_text() == "keep me"


def test_interrupted_before_the_end(model_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")
    assert not Artifact.open(tmp_path / "a").manifest.verified
    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)
    done = compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits", resume=True)
    assert done.artifact.manifest.verified and done.facts
    assert not (tmp_path / "a" / "work").exists()


def test_an_unfinished_folder_is_not_touched_without_resume(
    model_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = partial_folder(tmp_path / "a")
    unfinished.mkdir()
    (unfinished / "block-000.safetensors").write_bytes(b"hours of work")
    with pytest.raises(UsageError, match="holds an unfinished job"):
        compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")
    assert (unfinished / "block-000.safetensors").read_bytes() == b"hours of work"


def test_a_failed_verification_leaves_the_artifact_unverified(
    model_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(folder: Path) -> None:
        path = folder / "block-000.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        verifying.verify(folder)

    monkeypatch.setattr(verifying, "_verify_afresh", spoil)
    with pytest.raises(ArtifactError, match=r"block-000.*differs from its digest"):
        compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits")
    assert not Artifact.open(tmp_path / "a", digests=False).manifest.verified


def test_a_fresh_process_verifies(model_of: Any, tmp_path: Path) -> None:
    assert compress(model_of("llama"), tmp_path / "a", method="rtn", budget="4bits").artifact.manifest.verified
    path = tmp_path / "a" / "head.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"marked unverified.*head\.safetensors differs from its digest"):
        verifying.close(tmp_path / "a")
