"""The commands over sequences, on the packaged data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailorbird.cli.main import call

ARGS = ["--shape", "length=10", "--shape", "width=8", "--shape", "layers=1", "--set", "epochs=1", "--set", "batch=64"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", "list"]) == 0
    assert "GroupLens" in capsys.readouterr().out
    assert call(["data", "get", "ml-latest-small", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["events"] == 100_004 and "order means nothing" in err
    assert call(["data", "get", "nothing"]) == 4
    assert "there are: ml-latest-small" in capsys.readouterr().err


def test_train_and_recommend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "films"
    assert call(["train", "sasrec", "--data", "ml-latest-small", "--out", str(out), *ARGS]) == 0
    said = capsys.readouterr()
    assert "ndcg@10 tail users" in said.out and "epoch   1" in said.err
    assert "order means nothing" in said.err
    page = (out / "report.html").read_text()
    assert "sasrec on ml-latest-small" in page and "head users" in page
    assert json.loads((out / "report.json").read_text())["settings"]["seed"] == 0
    history = ["--history", "Matrix, The (1999)", "--history", "1"]
    assert call(["recommend", str(out), *history, "--count", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["items"]) == 3 and found["history"][1] == 1
    for odd in ("no such film", "0", "99999", "9" * 30, "9" * 5000):
        assert call(["recommend", str(out), "--history", odd]) == 2
    assert call(["recommend", str(out), *history, "--count", "0"]) == 2
    assert call(["train", "sasrec", "--data", "ml-latest-small", "--out", str(out)]) == 2
    assert call(["train", "sasrec", "--data", "ml-latest-small", "--out", "x", "--set", "epochs"]) == 2
    assert call(["train", "nobody", "--data", "ml-latest-small", "--out", str(tmp_path / "x")]) == 2
    assert "sasrec" in capsys.readouterr().err
