"""The page of a simulated fleet: complete, closed to the outside, calm about gaps; and in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tailorbird.errors import ArtifactError
from tailorbird.report import render_simulation, write_simulation

_pages = run_path(str(Path(__file__).with_name("pages.py")))
in_browser, measured, visit, words = (_pages[name] for name in ("in_browser", "measured", "visit", "words"))
HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)"> \x00\u202e\ud800'
POLICIES = ("every", "drift", "random", "intellectreq", "intellectreq gain", "intellectreq published")


def quality(mean: float, p: float | None = 0.03) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {"mean": mean * more, "low": mean * more - 0.01, "high": mean * more + 0.01}
        for name, more in (("ndcg@10", 1), ("hr@10", 2))
    }
    return found if p is None else found | {"against_trunk": {"difference": mean - 0.1, "p": p}}


def by_group(mean: float, p: float | None = 0.04) -> dict[str, Any]:
    apart = {"tail users": 0.2, "head users": -0.05}
    return {name: {"devices": 134} | quality(mean + more, p) for name, more in apart.items()}


def facts() -> dict[str, Any]:
    rows = [
        {"policy": policy, "budget": budget, "rate": budget, "requests": 9 * budget,
         "bytes_down": 2300 * (1 + 9 * budget), "bytes_up": 200 * (1 + 9 * budget),
         **quality(0.1 + 0.02 * budget), "groups": by_group(0.1 + 0.02 * budget)}
        for policy in POLICIES for budget in (0.0, 0.33, 1.0)
    ]  # fmt: skip
    against = [
        {"policy": policy, "budget": 0.33, "rate": 0.32, "random_rate": 0.32, "difference": -0.0021, "p": 0.0005}
        for policy in POLICIES[3:]
    ]
    return {
        "model": "sasrec", "system": "duet", "manifest": "cd" * 32, "torch": "2.13", "threads": 2, "window": 0,
        "data": {"name": "ml-1m", "digest": "ab" * 32, "split": "last-10", "tied": 0.1}, "options": {"share": 0.5},
        "settings": {"seed": 3, "epochs": 10}, "devices": 671, "events": 10, "payload": 2285.4, "rows": rows,
        "static": quality(0.1, None) | {"groups": by_group(0.1, None)}, "against_random": against,
        "detector": {policy: {"auc": 0.8131, "pairs": 100} for policy in POLICIES[3:]},
        "versions": {"tailorbird": "0.1.0"},
    }  # fmt: skip


def test_everything_is_there(tmp_path: Path) -> None:
    page = write_simulation(tmp_path, facts())
    text = words(page.read_text(encoding="utf-8"))
    for wanted in (
        *("duet on sasrec, simulated", "671 devices of 10 events", "ml-1m", "last-10", "ab" * 32, "cd" * 32, "seed 3"),
        *("tail users (134)", "head users (134)", "all users (671)", *POLICIES, "trunk alone"),
        *("0.1200 0.110 to 0.130 +0.0200, p 0.030", "0.3200 0.310 to 0.330", "-0.00210".replace("-", "−"), "0.00050"),
        *("23.0 kB", "0.813", "requests a device after the first", "kB down a device", "kB up a device"),
    ):  # fmt: skip
        assert wanted in text, wanted
    svg = page.read_text(encoding="utf-8").split("<svg")[1:]
    assert len(svg) == 6 and all(one.count("<polyline") == 6 for one in svg)  # a curve a policy in every picture
    assert render_simulation(json.loads((tmp_path / "report.json").read_text())) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "key", ["static", "data", "settings", "options", "detector", "against_random", "devices", "payload", "versions"]
)
@pytest.mark.parametrize("value", [None, [], {}, "x", float("nan"), [1, {"policy": "x"}]])
def test_gaps_are_left_out(key: str, value: Any) -> None:
    words(render_simulation(facts() | {key: value}))
    words(render_simulation({k: v for k, v in facts().items() if k != key}))


def test_rows_as_they_were_kept_before_there_were_groups() -> None:
    found = facts()
    for row in [found["static"], *found["rows"]]:
        row.pop("groups")
        row.pop("against_trunk", None)
    text = words(render_simulation(found))
    assert "By the length" not in text and "kB up a device" in text


def test_hostile_text_stays_text() -> None:
    found = facts() | {"model": HOSTILE, "data": {"name": HOSTILE, HOSTILE: HOSTILE}, "settings": {HOSTILE: HOSTILE}}
    found["rows"] += [found["rows"][0] | {"policy": HOSTILE}]
    found["against_random"][0]["policy"] = HOSTILE
    page = render_simulation(found)
    words(page)
    assert "<script" not in page and "<img" not in page


def test_without_policies_there_is_no_page() -> None:
    with pytest.raises(ArtifactError, match="no policies"):
        render_simulation(facts() | {"rows": [1]})


@in_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    dom = visit(write_simulation(tmp_path, facts()), width)
    assert dom.count("<section") == 6 and dom.count('class="chart"') == 6
    assert measured(render_simulation(facts()), tmp_path, width) == "wide 0 out "
