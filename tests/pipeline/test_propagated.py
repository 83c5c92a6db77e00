"""Jobs whose layers make up for what was lost before them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import UsageError
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.estimate import estimate
from tailorbird.pipeline.quality import evaluate

JOB: dict[str, Any] = {"budget": "3bits", "samples": 48, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("family", "method", "options"),
    [
        ("untied", "gptq", {}),
        ("gemma3", "slim-llm", {"search": 2}),
        ("llama", "trellis", {"beam": 4}),
        ("untied", "quarot", {}),
    ],
)
def test_it_comes_nearer_at_the_same_size(
    model_of: Any, text: Path, tmp_path: Path, family: str, method: str, options: dict[str, Any]
) -> None:
    folder, gaps, sizes = model_of(family), [], []
    for name, share in (("without", 0.0), ("with", 0.5)):
        given = options | {"propagate": share}
        made = compress(folder, tmp_path / name, method=method, options=given, data=text, **JOB).artifact
        gaps.append(evaluate(made.folder, folder, tokens=400, window=32, text=text).kl)
        sizes.append(made.bits)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert 0 < gaps[1] < gaps[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["llama", "untied"])
def test_killed_between_blocks_it_goes_on_to_the_same_bytes(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    stage = import_module("tailorbird.pipeline.compress")
    plain, stop = stage.fit_piece, True

    def fit(job: Any, piece: Any, *rest: Any) -> Any:
        if stop and piece.block == 1:
            raise KeyboardInterrupt
        return plain(job, piece, *rest)

    job = {"method": "gptq", "options": {"propagate": 0.5}, "data": text} | JOB
    monkeypatch.setattr(stage, "fit_piece", fit)
    with pytest.raises(KeyboardInterrupt):
        compress(model_of(family), tmp_path / "cut", **job)
    stop = False
    whole = compress(model_of(family), tmp_path / "whole", **job)
    assert compress(model_of(family), tmp_path / "cut", resume=True, **job).artifact.digest == whole.artifact.digest


@pytest.mark.parametrize(
    ("family", "method", "share", "said"),
    [
        ("llama", "rtn", 0.5, "rtn can't propagate"),
        ("llama", "awq", 0.5, "awq can't propagate"),
        ("opt", "gptq", 0.5, "can't be propagated in"),
        ("llama", "gptq", 2.0, "propagate=2"),
        ("llama", "gptq", -0.1, "propagate=-0.1"),
    ],
)
def test_what_can_not_be_is_refused(model_of: Any, family: str, method: str, share: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prepare(model_of(family), method, "3bits", {"propagate": share})


def test_it_is_foreseen(model_of: Any) -> None:
    plain, more = (prepare(model_of("llama"), "gptq", "3bits", {"propagate": share}) for share in (0, 0.5))
    assert estimate(more, 2**20, batches=16).memory_bytes > estimate(plain, 2**20, batches=16).memory_bytes
