"""Jobs whose finished model learns end to end: the same size, nearer to the original, killed or not the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tailorbird.pipeline.distilled as stage
from tailorbird.artifact import Artifact
from tailorbird.artifact.partial import partial_folder
from tailorbird.artifact.verify import verify
from tailorbird.errors import ResourceError, UsageError
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.estimate import estimate
from tailorbird.pipeline.quality import evaluate
from tailorbird.pipeline.refit import export_refitted
from tailorbird.plan import Plan
from tailorbird.tune.distill import Distillation

JOB: dict[str, Any] = {"budget": "4bits", "samples": 32, "length": 32}
ON = {"distill": 3}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("family", "method", "options"),
    [
        ("llama", "rtn", {}),
        ("untied", "trellis", {}),
        ("gemma3", "gptq", {"scale": "fp16"}),
        ("gemma2", "rtn", {}),
        ("opt", "awq", {}),
        ("untied", "billm", {}),
        ("untied", "spinquant", {}),
    ],
)
def test_it_comes_nearer_at_the_same_size(
    model_of: Any, text: Path, tmp_path: Path, family: str, method: str, options: dict[str, Any]
) -> None:
    folder = model_of(family)
    gaps = []
    for name, more in (("as-fitted", {}), ("distilled", ON)):
        compress(folder, tmp_path / name, method=method, options=options | more, data=text, **JOB)
        verify(tmp_path / name)
        gaps.append(evaluate(tmp_path / name, folder, tokens=200, window=32, text=text).kl)
    assert 0 < gaps[1] < 0.97 * gaps[0]
    one, other = (Artifact.open(tmp_path / name) for name in ("as-fitted", "distilled"))
    assert one.stored.keys() == other.stored.keys() and one.plan.specs == other.plan.specs
    assert all(a.nbytes == b.nbytes for a, b in zip(one.stored.values(), other.stored.values(), strict=True))
    inside = next(part.name for part in one.plan.parts if part.block == 0)
    before, after = one.planes(inside).arrays, other.planes(inside).arrays
    changed = {name for name, array in before.items() if not torch.equal(array, after[name])}
    assert changed and all(before[name].dtype is torch.float16 for name in changed)


@pytest.mark.usefixtures("here")
def test_killed_after_every_pass(model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {**JOB, "method": "gptq", "options": ON, "data": text}
    whole = compress(model_of("llama"), tmp_path / "whole", **job)
    write, done = stage.write, 0

    def die(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write", die)
    for done in range(ON["distill"]):
        with pytest.raises(KeyboardInterrupt):
            compress(model_of("llama"), tmp_path / "killed", resume=done > 0, **job)
    monkeypatch.setattr(stage, "write", lambda *_: pytest.fail("all passes were done"))
    resumed = compress(model_of("llama"), tmp_path / "killed", resume=True, **job)
    assert resumed.artifact.digest == whole.artifact.digest
    assert not (tmp_path / "killed" / "work").exists()
    assert len(whole.divergence) == 1 + ON["distill"] and whole.divergence == resumed.divergence
    assert min(whole.divergence) < whole.divergence[0]
    assert compress(model_of("llama"), tmp_path / "whole", resume=True, **job).divergence == whole.divergence


@pytest.mark.usefixtures("here")
def test_an_error_takes_no_fitted_piece_away(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise ResourceError("the disk is full", hint="make room")

    with monkeypatch.context() as patch, pytest.raises(ResourceError):
        patch.setattr(stage, "write", full)
        compress(model_of("llama"), tmp_path / "a", method="rtn", options=ON, data=text, **JOB)
    assert len(list(partial_folder(tmp_path / "a").rglob("*.safetensors"))) == 3
    resumed = compress(model_of("llama"), tmp_path / "a", method="rtn", options=ON, data=text, resume=True, **JOB)
    assert resumed.artifact.manifest.verified


@pytest.mark.usefixtures("here")
def test_what_does_not_help_is_not_kept(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pass after pass on held-back windows is compared with the start."""
    plain = compress(model_of("llama"), tmp_path / "plain", method="rtn", data=text, **JOB)
    losses = iter([1.0, 2.0, float("inf"), 1.5])
    monkeypatch.setattr(Distillation, "loss", lambda _: next(losses))
    learned = compress(model_of("llama"), tmp_path / "learned", method="rtn", options=ON, data=text, **JOB)
    names = plain.artifact.stored
    assert all(torch.equal(plain.artifact.read(name), learned.artifact.read(name)) for name in names)


@pytest.mark.usefixtures("here")
def test_shared_out_by_losses_and_one_window(model_of: Any, text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "gptq", "options": {"distill": 1}, "data": text}
    found = compress(model_of("llama"), tmp_path / "a", allocate="measured", **options, **JOB)
    assert found.artifact.manifest.verified and found.seconds["distill"] > 0
    compress(model_of("llama"), tmp_path / "b", **options, **(JOB | {"samples": 1}))


@pytest.mark.usefixtures("here")
def test_the_original_is_not_fitted_anew(model_of: Any, text: Path, tmp_path: Path) -> None:
    """Its norms are no longer those the learned factors belong to."""
    compress(model_of("llama"), tmp_path / "a", method="rtn", options=ON, data=text, **JOB)
    with pytest.raises(UsageError, match="is not the original's"):
        export_refitted(tmp_path / "a", tmp_path / "b", "gguf", original=model_of("llama"), data=text)
    assert not (tmp_path / "b").exists()


def test_refused(model_of: Any) -> None:
    with pytest.raises(UsageError, match="distill=-1"):
        prepare(model_of("llama"), "rtn", "3bits", {"distill": -1})
    with pytest.raises(UsageError, match="can't be distilled"):
        prepare(torch.nn.Sequential(torch.nn.Linear(8, 8)), "rtn", "3bits", ON)


def test_it_is_foreseen(model_of: Any) -> None:
    plain, more = (
        estimate(prepare(model_of("llama"), "gptq", "3bits", options), 32 * 32, batches=8) for options in ({}, ON)
    )
    assert "distill" not in plain.seconds and more.seconds["distill"] > 0
    assert more.disk_bytes > plain.disk_bytes


def test_plans_from_before_have_none(model_of: Any) -> None:
    job = prepare(model_of("llama"), "gptq", "3bits")
    plain = job.plan.to_json()
    del plain["options"]["distill"]
    assert prepare(model_of("llama"), plan=Plan.from_json(plain)).method.distill == 0
