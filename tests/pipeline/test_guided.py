"""Jobs in whose fits a token counts by how much errors there are felt at the model's output."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.errors import UsageError
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.estimate import estimate
from tailorbird.pipeline.quality import evaluate

JOB: dict[str, Any] = {"budget": "3bits", "samples": 48, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("family", "method", "options"),
    [
        ("gemma3", "gptq", {}),
        ("untied", "gptq", {"propagate": 0.5, "distill": 1}),
        ("llama", "trellis", {"beam": 4}),
        ("llama", "quarot", {}),
    ],
)
def test_other_weights_at_the_same_size(
    model_of: Any, text: Path, tmp_path: Path, family: str, method: str, options: dict[str, Any]
) -> None:
    folder, gaps, found = model_of(family), [], []
    for name, share in (("without", 0.0), ("with", 0.5)):
        given = options | {"guided": share}
        result = compress(folder, tmp_path / name, method=method, options=given, data=text, **JOB)
        found.append(result.artifact)
        gaps.append(evaluate(result.artifact.folder, folder, tokens=400, window=32, text=text).kl)
        assert ("guide" in result.seconds) == (share > 0)
    assert found[0].digest != found[1].digest
    assert found[0].bits == pytest.approx(found[1].bits, rel=0.01)
    assert 0 < gaps[1] < 1.3 * gaps[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("when", ["before it is known", "after it is known", "between blocks"])
def test_killed_it_goes_on_to_the_same_bytes(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    stage, told = import_module("tailorbird.pipeline.compress"), import_module("tailorbird.pipeline.guided")
    fit, write, guide, calls = stage.fit_piece, told.write, told.guide, []

    def fitting(job: Any, piece: Any, *rest: Any) -> Any:
        if calls and when != "before it is known" and piece.block == (1 if when == "between blocks" else 0):
            raise KeyboardInterrupt
        return fit(job, piece, *rest)

    def writing(*given: Any) -> None:
        if calls and when == "before it is known":
            raise KeyboardInterrupt
        write(*given)

    def counted(*given: Any) -> Any:
        calls.append(1)
        return guide(*given)

    for module, name, other in ((stage, "fit_piece", fitting), (told, "write", writing), (told, "guide", counted)):
        monkeypatch.setattr(module, name, other)
    job = {"method": "gptq", "options": {"guided": 0.5}, "data": text} | JOB
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("llama"), tmp_path / "cut", **job)
    monkeypatch.setattr(stage, "fit_piece", fit)
    monkeypatch.setattr(told, "write", write)
    resumed = compress(model_of("llama"), tmp_path / "cut", resume=True, **job)
    assert len(calls) == (2 if when == "before it is known" else 1)
    assert resumed.artifact.digest == compress(model_of("llama"), tmp_path / "whole", **job).artifact.digest
    assert not (tmp_path / "cut" / "work").exists()


@pytest.mark.usefixtures("here")
def test_long_texts_are_guided_by_some_windows(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, found = import_module("tailorbird.pipeline.guided"), []
    plain = told.shared
    monkeypatch.setattr(told, "TOKENS", 20 * 32)
    monkeypatch.setattr(told, "shared", lambda guide, share: found.append(guide) or plain(guide, share))
    compress(model_of("llama"), tmp_path / "out", method="gptq", options={"guided": 0.5}, data=text, **JOB)
    for weights in found[0].values():
        assert weights.shape == (48, 32) and float(weights.mean()) == pytest.approx(1, rel=1e-4)
        assert [bool(window.any()) for window in weights] == [True, False, False] * 16


@pytest.mark.parametrize(
    ("method", "share", "said"),
    [("rtn", 0.5, "rtn can't be guided"), ("awq", 0.5, "awq can't be guided"), ("gptq", 2.0, "guided=2")],
)
def test_what_can_not_be_is_refused(model_of: Any, method: str, share: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prepare(model_of("llama"), method, "3bits", {"guided": share})


def test_a_module_is_refused() -> None:
    with pytest.raises(UsageError, match="can't be guided"):
        prepare(torch.nn.Sequential(torch.nn.Linear(64, 64)), "gptq", "3bits", {"guided": 0.5})


def test_it_is_foreseen(model_of: Any) -> None:
    plain, more = (prepare(model_of("llama"), "gptq", "3bits", {"guided": share}) for share in (0, 0.5))
    small, large = (estimate(job, 2**20, batches=16) for job in (plain, more))
    assert large.seconds["guide"] > 0 and "guide" not in small.seconds
    assert large.memory_bytes > small.memory_bytes and large.disk_bytes > small.disk_bytes
