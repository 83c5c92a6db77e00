"""The page of a training: complete, closed to the outside, calm about gaps; and in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tailorbird.errors import ArtifactError
from tailorbird.report import render_training, write_training

_pages = run_path(str(Path(__file__).with_name("pages.py")))
in_browser, measured, visit, words = (_pages[name] for name in ("in_browser", "measured", "visit", "words"))
HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)"> \x00\u202e\ud800'


def facts() -> dict[str, Any]:
    def about(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}

    figures: dict[str, Any] = {f"{name}@{k}": about(0.01 * k) for name in ("hr", "ndcg") for k in (5, 10, 20)}
    figures |= {f"{name}@10 {of} users": about(0.05) for name in ("hr", "ndcg") for of in ("tail", "head")}
    figures |= {"mrr": about(0.04), "coverage@10": 0.3}
    log = [
        {"epoch": 3 * i, "loss": 8.0 / i, "ndcg@10": 0.1 - 0.01 * abs(i - 4), "seconds": 9.0 * i, "best": i <= 4}
        for i in range(1, 8)
    ]
    return {
        "model": "sasrec",
        "data": {"name": "ml-latest-small", "digest": "ab" * 32, "split": "leave-one-out", "tied": 0.1},
        "settings": {"seed": 3, "epochs": 21, "rate": 0.001}, "shape": {"items": 9066, "width": 32}, "torch": "2.13",
        "threads": 1, "parameters": 300_000, "seconds": 81.0, "log": log,
        "test": {"protocol": "full ranking", "cases": 671, "figures": figures}, "versions": {"tailorbird": "0.1.0"},
    }  # fmt: skip


def test_everything_is_there(tmp_path: Path) -> None:
    page = write_training(tmp_path, facts())
    text = words(page.read_text(encoding="utf-8"))
    for wanted in ("sasrec on ml-latest-small", "leave-one-out", "full ranking", "671 cases", "ab" * 32, "10.0 %"):
        assert wanted in text, wanted
    for wanted in (
        "tail users",
        "head users",
        "0.0900 to 0.110",
        "Training loss",
        "epoch 12: 0.1000",
        "kept",
        "seed 3",
    ):
        assert wanted in text, wanted
    assert json.loads((tmp_path / "report.json").read_text())["settings"]["seed"] == 3
    assert render_training(json.loads((tmp_path / "report.json").read_text())) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["log", "data", "settings", "shape", "seconds", "versions"])
@pytest.mark.parametrize("value", [None, [], {}, "x", float("nan"), [1, {"epoch": "x"}]])
def test_gaps_are_left_out(key: str, value: Any) -> None:
    words(render_training(facts() | {key: value}))
    words(render_training({k: v for k, v in facts().items() if k != key}))


def test_hostile_text_stays_text() -> None:
    found = facts() | {"model": HOSTILE, "data": {"name": HOSTILE, HOSTILE: HOSTILE}, "settings": {HOSTILE: HOSTILE}}
    found["test"]["figures"][HOSTILE] = 0.5
    page = render_training(found)
    words(page)
    assert "<script" not in page and "<img" not in page


def test_without_a_test_there_is_no_page() -> None:
    with pytest.raises(ArtifactError, match="no test"):
        render_training(facts() | {"test": None})


def test_one_look_is_a_point() -> None:
    found = facts()
    found["log"] = found["log"][:1]
    assert words(render_training(found)).count("epoch 3:") >= 2


@in_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    dom = visit(write_training(tmp_path, facts()), width)
    assert dom.count("<section") == 3 and dom.count('class="chart"') == 2
    assert measured(render_training(facts()), tmp_path, width) == "wide 0 out "
