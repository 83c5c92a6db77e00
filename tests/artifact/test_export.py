"""What all exports share: refusing, re-encoding, telling what is lost, and leaving nothing half-done."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

import tailorbird
from tailorbird import registry
from tailorbird.artifact import Artifact, targets
from tailorbird.artifact.changes import grouped
from tailorbird.artifact.reader import Artifact as Source
from tailorbird.artifact.record import NAME
from tailorbird.artifact.targets.hf import HF
from tailorbird.artifact.targets.target import Target, Told
from tailorbird.errors import ArtifactError, BudgetError, ModelError, ResourceError, UsageError
from tailorbird.files import sha256
from tailorbird.formats import PlaneSpec


@dataclass(frozen=True, kw_only=True)
class Plain(HF):
    """Four symmetric bits and nothing else, for the tests."""

    name: ClassVar[str] = "plain"

    dtype: str = "fp32"
    fail: str = ""

    def carried(self, part: Any, spec: PlaneSpec) -> PlaneSpec:
        return replace(spec, bits=(4,) * len(spec.bits), offset="none", column_order=False)

    def write(self, artifact: Source, out: Path, told: Told) -> None:
        super().write(artifact, out, told)
        if self.fail == "full":
            raise OSError(errno.ENOSPC, "no space")
        if self.fail == "bug":
            raise RuntimeError("bug")
        if self.fail == "wrong":
            (out / "model.safetensors").unlink()
        if self.fail == "killed":
            os._exit(9)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target above, as a package would bring it."""
    monkeypatch.setattr(targets, "targets", lambda: {"hf": HF, "plain": Plain})


def test_refused_with_a_way_out(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plain can't carry 15 of 15 parts") as caught:
        tailorbird.export(base, tmp_path / "out", "plain")
    assert "mlp" in caught.value.message and "loses up to" in caught.value.message
    words = shlex.split(caught.value.hint.partition(": ")[2].partition(";")[0])
    assert words[:2] == ["tailorbird", "compress"] and words[words.index("--target") + 1] == "plain"
    assert words[words.index("--method") + 1] == "gptq" and "act_order=true" in words
    assert "--reencode" in caught.value.hint and "damp" not in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_reencoded(base: Path, tmp_path: Path) -> None:
    done = tailorbird.export(base, tmp_path / "out", "plain", reencode=True, original=base.parent / "model")
    assert not done.exact and done.check.exact and len(done.changes) == 15
    for change in done.changes:
        assert change.new == Plain().carried(change.part, change.old)
        assert 0 < change.lost < 0.5 and change.before is not None and change.after is not None
        assert change.before > 0 and abs(change.after - change.before) < 1.2 * change.lost
    rows = grouped(done.changes)
    assert sum(row["parts"] for row in rows) == 15 and {row["role"] for row in rows} == {
        "attention",
        "mlp",
        "embedding",
    }
    assert done.nbytes > done.artifact_nbytes > 0
    without = tailorbird.export(base, tmp_path / "other", "plain", reencode=True)
    assert all(change.before is None for change in without.changes)
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert {name: sha256(tmp_path / "out" / name) for name in names} == {
        name: sha256(tmp_path / "other" / name) for name in names
    }


def test_another_original_is_refused(base: Path, tmp_path: Path) -> None:
    import runpy

    tiny = runpy.run_path(str(Path(__file__).parents[1] / "pipeline" / "tiny.py"))
    tiny["make_model"]("opt", tmp_path / "model")
    with pytest.raises(ModelError, match="their parts differ"):
        tailorbird.export(base, tmp_path / "out", "plain", reencode=True, original=tmp_path / "model")
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / "recipe.toml").write_text(f'model = "{tmp_path / "model"}"\nbudget = ["3bits"]\n')
    done = tailorbird.export(copy, tmp_path / "out", "plain", reencode=True)
    assert all(change.before is None for change in done.changes)
    assert "--budget 3bits" in done.advice


def test_solved_for_the_target_it_is_exact(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tailorbird.artifact.verify as verifying

    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)
    arguments: dict[str, Any] = {"data": base.parent / "text.txt", "samples": 8, "length": 32, "budget": "5.5bits"}
    arguments["options"] = {"rows": False}  # what the target says of bits holds for whole parts
    model = base.parent / "model"
    tailorbird.compress(model, tmp_path / "a", method="slim-llm", target="plain", **arguments)
    specs = Artifact.open(tmp_path / "a").plan.specs.values()
    assert {(spec.bits[0], len(set(spec.bits)), spec.offset) for spec in specs} == {(4, 1, "none")}
    assert tailorbird.export(tmp_path / "a", tmp_path / "out", "plain").exact
    with pytest.raises(UsageError, match="target differ"):
        tailorbird.compress(model, tmp_path / "a", method="slim-llm", resume=True, target="hf", **arguments)


def test_an_existing_folder_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists"):
        tailorbird.export(base, tmp_path / "out", "hf")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("fail, error", [("full", ResourceError), ("bug", RuntimeError), ("wrong", ArtifactError)])
def test_a_failure_leaves_nothing(fail: str, error: type[Exception], base: Path, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        tailorbird.export(base, tmp_path / "out", "plain", reencode=True, options={"fail": fail})
    assert fail != "full" or "free some space" in caught.value.hint  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


KILLED = """
import importlib.util, sys
import tailorbird
from tailorbird.artifact import targets
spec = importlib.util.spec_from_file_location("killed", sys.argv[1])
module = sys.modules["killed"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
targets.targets = lambda: {"plain": module.Plain}
tailorbird.export(sys.argv[2], sys.argv[3], "plain", reencode=True, options={"fail": "killed"})
"""


def test_what_a_killed_export_left_goes_with_the_next(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, __file__, str(base), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".out.") and not (tmp_path / "out").exists()
    tailorbird.export(base, tmp_path / "out", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_artifact_is_not_exported(base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    path = next(copy.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        tailorbird.export(copy, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


def test_packages_bring_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entry = EntryPoint("plain", f"{HF.__module__}:HF", "tailorbird.targets")

    class Entry:
        name, value, dist = entry.name, entry.value, None
        loaded: Any = Plain

        def load(self) -> Any:
            return self.loaded

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()] if group == "tailorbird.targets" else [])
    targets.targets.cache_clear()
    try:
        assert {"hf", "compressed-tensors", "onnx", "plain"} <= set(targets.targets())
        assert isinstance(targets.find("plain", fail="x"), Plain)
        targets.targets.cache_clear()
        Entry.loaded = Target
        with pytest.raises(UsageError, match="is not a named Target"):
            targets.targets()
    finally:
        targets.targets.cache_clear()


@pytest.mark.parametrize("to", ["hf", "compressed-tensors", "onnx", "gguf"])
def test_the_planned_size_is_exact(to: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of the very size is kept; one byte less is refused before anything is written."""
    monkeypatch.undo()
    pytest.importorskip({"hf": "safetensors", "compressed-tensors": "compressed_tensors"}.get(to, to))
    done = tailorbird.export(base, tmp_path / "free", to, reencode=True)
    size = sum(file.stat().st_size for file in done.folder.iterdir() if file.name != NAME)
    kept = tailorbird.export(base, tmp_path / "kept", to, reencode=True, budget=f"{size}B")
    assert (
        kept.nbytes == size == sum(file.stat().st_size for file in (tmp_path / "free").iterdir() if file.name != NAME)
    )
    monkeypatch.setattr(targets.targets()[to], "write", None)
    with pytest.raises(BudgetError, match=f"takes {size:,} bytes.*allows {size - 1:,}") as caught:
        tailorbird.export(base, tmp_path / "out", to, reencode=True, budget=f"{size - 1}B")
    assert "compress to about" in caught.value.hint and not (tmp_path / "out").exists()


def test_shards_are_planned_too(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.artifact.folder.SHARD_BYTES", 50_000)
    done = tailorbird.export(base, tmp_path / "out", "hf")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert HF().planned_bytes(Artifact.open(base)) == done.nbytes


def test_a_size_known_only_afterwards(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HF, "planned_bytes", Target.planned_bytes)
    with pytest.raises(BudgetError):
        tailorbird.export(base, tmp_path / "out", "hf", budget="10kB")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="in bytes"):
        tailorbird.export(base, tmp_path / "out", "hf", budget="3bits")
