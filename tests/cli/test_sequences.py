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
    evaluated(out, tmp_path / "candidates", capsys)
    for odd in ("no such film", "0", "99999", "9" * 30, "9" * 5000):
        assert call(["recommend", str(out), "--history", odd]) == 2
    assert call(["recommend", str(out), *history, "--count", "0"]) == 2
    assert call(["train", "sasrec", "--data", "ml-latest-small", "--out", str(out)]) == 2
    assert call(["train", "sasrec", "--data", "ml-latest-small", "--out", "x", "--set", "epochs"]) == 2
    assert call(["train", "nobody", "--data", "ml-latest-small", "--out", str(tmp_path / "x")]) == 2
    assert "sasrec" in capsys.readouterr().err


def evaluated(model: Path, candidates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test again, as it was at the end of training; and among candidates, drawn once and read again."""
    assert call(["evaluate", str(model), "--json"]) == 0
    full = json.loads(capsys.readouterr().out)
    assert full["figures"] == json.loads((model / "recommender.json").read_text())["test"]["figures"]
    assert full["data"]["split"] == "leave-one-out" and len(full["data"]["digest"]) == 64
    among = ["evaluate", str(model), "--candidates", str(candidates)]
    assert call(among) == 4 and not candidates.exists()
    assert call([*among, "--draw", "100", "--seed", "3", "--json"]) == 0
    capsys.readouterr()
    assert call([*among, "--draw", "100"]) == 2
    assert call(among) == 0
    said = capsys.readouterr().out
    assert "SAMPLED: among 100 fixed candidates" in said and "  sampled ndcg@10 tail users " in said
    assert call([*among, "--json"]) == 0
    few = json.loads(capsys.readouterr().out)
    assert all(name.startswith("sampled ") for name in few["figures"])
    assert few["figures"]["sampled hr@10"]["mean"] > full["figures"]["hr@10"]["mean"]
    assert call(["evaluate", str(model), "--draw", "5"]) == 2
    assert call(["evaluate", str(candidates), "--candidates", str(candidates)]) == 2
    capsys.readouterr()
