"""The page in a real browser: it loads without complaint, runs nothing, and fits narrow and wide windows."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tailorbird.report import render, write_report

_pages = run_path(str(Path(__file__).with_name("pages.py")))
in_browser, measured, visit = _pages["in_browser"], _pages["measured"], _pages["visit"]


@in_browser
def test_loads_quietly(tmp_path: Path, report: dict[str, Any]) -> None:
    dom = visit(write_report(tmp_path, report), 1280)
    assert "<title>demo:gemma-270m, compressed</title>" in dom
    assert dom.count("<section") == 8
    assert dom.count('class="chart"') >= 5


@in_browser
def test_hostile_text_runs_nothing(tmp_path: Path, report: dict[str, Any]) -> None:
    attack = "</title><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    report["model"]["source"] = report["parts"][5]["name"] = report["samples"][0]["compressed"] = attack
    dom = visit(write_report(tmp_path, report), 1280)
    assert "<script" not in dom and "<img" not in dom and "<title>owned" not in dom


@in_browser
@pytest.mark.parametrize("width", [500, 820, 1280])
@pytest.mark.parametrize("names", ["usual", "huge"])
@pytest.mark.parametrize("scale", [1, 1e-6])
def test_nothing_sticks_out(tmp_path: Path, report: dict[str, Any], width: int, names: str, scale: float) -> None:
    for part in report["parts"]:
        part["error"] = scale * part["error"] if part.get("error") else None
    if names == "huge":
        report["model"]["source"] = report["machine"]["cpu"] = "x" * 300
        for index, part in enumerate(report["parts"]):
            part["name"] = part["name"].replace("proj", "projection_with_an_endless_name" * 4) + str(index % 7)
    assert measured(render(report), tmp_path, width) == "wide 0 out "
