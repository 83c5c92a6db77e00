"""The page of a tailored model: complete, closed to the outside, calm about gaps; and in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tailorbird.errors import ArtifactError
from tailorbird.report import render_tailoring, write_tailoring

_pages = run_path(str(Path(__file__).with_name("pages.py")))
in_browser, measured, visit, words = (_pages[name] for name in ("in_browser", "measured", "visit", "words"))
HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)"> \x00\u202e\ud800'


def figures(more: float) -> dict[str, Any]:
    def both(mean: float) -> dict[str, Any]:
        means = {"trunk": mean, "diet": mean + more}
        return {name: {"mean": m, "low": m - 0.01, "high": m + 0.01} for name, m in means.items()} | {"p": 0.0421}

    return {"ndcg@10": both(0.1), "hr@10": both(0.2)}


def facts() -> dict[str, Any]:
    log = [
        {"stage": stage, "epoch": i, "loss": 8.0 / i if i else None, "ndcg@10": 0.1 + 0.01 * min(i, 3), "seconds": i,
         "best": i <= 3}
        for stage in ("head", "masks") for i in range(6)
    ]  # fmt: skip
    groups = {name: {"users": 135} | figures(more) for name, more in (("tail users", 0.03), ("head users", -0.02))}
    return {
        "model": "gru4rec", "system": "diet", "torch": "2.13", "threads": 2, "payload": 303, "log": log,
        "data": {"name": "ml-latest-small", "digest": "ab" * 32, "split": "last-10", "tied": 0.1},
        "settings": {"seed": 3, "epochs": 5}, "options": {"share": 0.5},
        "test": {"protocol": "full ranking of 9066 items", "groups": groups} | figures(0.0125),
        "detector": {"form": "intellectreq", "budget": 0.3, "auc": 0.7131, "rate": 0.29, "devices": 100, "pairs": 9},
        "versions": {"tailorbird": "0.1.0"},
    }  # fmt: skip


def test_everything_is_there(tmp_path: Path) -> None:
    page = write_tailoring(tmp_path, facts()).read_text(encoding="utf-8")
    text = words(page)
    for wanted in (
        *("diet on gru4rec", "ml-latest-small", "last-10", "full ranking of 9066 items", "ab" * 32),
        *("seed 3", "share 0.5"),
        *("Validation: head", "Validation: masks", "Training loss: masks", "kept: epoch 3, 0.1300", "303 B"),
        *("tail users (135)", "head users (135)", "0.1125 0.103 to 0.122 p 0.042", "0.1300 0.120 to 0.140 p 0.042"),
        *("0.08000 0.0700 to 0.0900 p 0.042", "intellectreq", "0.713"),
    ):  # fmt: skip
        assert wanted in text, wanted
    assert page.count("<svg") == 4
    assert render_tailoring(json.loads((tmp_path / "report.json").read_text())) == page


@pytest.mark.parametrize("key", ["log", "data", "settings", "options", "detector", "payload", "versions"])
@pytest.mark.parametrize("value", [None, [], {}, "x", float("nan"), [1, {"epoch": "x"}]])
def test_gaps_are_left_out(key: str, value: Any) -> None:
    words(render_tailoring(facts() | {key: value}))
    words(render_tailoring({k: v for k, v in facts().items() if k != key}))


def test_hostile_text_stays_text() -> None:
    found = facts() | {"model": HOSTILE, "system": HOSTILE, "data": {"name": HOSTILE}, "settings": {HOSTILE: HOSTILE}}
    found["test"]["protocol"] = found["detector"]["form"] = found["log"][0]["stage"] = HOSTILE
    page = render_tailoring(found)
    words(page)
    assert "<script" not in page and "<img" not in page


def test_without_a_test_there_is_no_page() -> None:
    with pytest.raises(ArtifactError, match="no test"):
        render_tailoring(facts() | {"test": {"protocol": "x"}})


@in_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    dom = visit(write_tailoring(tmp_path, facts()), width)
    assert dom.count("<section") == 4 and dom.count('class="chart"') == 4
    assert measured(render_tailoring(facts()), tmp_path, width) == "wide 0 out "
