"""Scatter pictures: standalone, complete, with labels that can be read."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest

from tailorbird.report import scatter
from tailorbird.report.axes import Frame
from tailorbird.report.labels import place
from tailorbird.report.text import text_width

SVG = "{http://www.w3.org/2000/svg}"
ROWS: list[dict[str, Any]] = [
    {"bytes": 101e6, "ppl": 119.0, "name": "3 bits", "by": "rtn"},
    {"bytes": 151e6, "ppl": 21.3, "name": "4.5 bits", "by": "rtn"},
    {"bytes": 101e6, "ppl": 27.5, "name": "3 bits", "by": "gptq"},
    {"bytes": 253e6, "ppl": 19.0, "name": "Q4_K_M", "by": "llama.cpp"},
]


def draw(rows: list[dict[str, Any]], **options: Any) -> ElementTree.Element:
    keys: dict[str, Any] = {"x": "bytes", "y": "ppl", "label": "name", "series": "by"}
    titles = {"title": "A < B & C", "x_title": "bytes", "y_title": "perplexity"}
    picture = scatter(rows, **keys | titles | options)
    assert picture.count("http") == 1
    return ElementTree.fromstring(picture)


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("log_y", [True, False])
@pytest.mark.parametrize("log_x", [True, False])
def test_everything_is_named(log_x: bool, log_y: bool) -> None:
    root = draw(ROWS, log_x=log_x, log_y=log_y, x_unit="bytes")
    shown = texts(root)
    for expected in ("A < B & C", "bytes", "perplexity", "rtn", "gptq", "llama.cpp", "Q4_K_M", "200 MB"):
        assert expected in shown
    assert shown.count("3 bits") == 2
    marks = [mark for mark in root.iter(f"{SVG}path") if len(mark)]
    assert len(marks) == len(ROWS)
    assert len({mark.get("class") for mark in marks}) == 3
    assert "rtn, 3 bits: 101 MB, 119.0" in (root.findtext(f"{SVG}desc") or "")


def test_points_stand_in_order() -> None:
    root = draw(ROWS[:2], log_y=True)
    line = root.find(f".//{SVG}polyline")
    assert line is not None
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in line.get("points", "").split())
    assert x1 < x2 and y1 < y2  # more bytes to the right, less perplexity further down


def test_points_of_a_curve_are_named_by_the_legend_alone() -> None:
    root = draw(ROWS, connect=False, curves=["rtn"])
    shown = texts(root)
    assert shown.count("3 bits") == 1 and "4.5 bits" not in shown and "rtn" in shown and "Q4_K_M" in shown
    assert len(root.findall(f".//{SVG}polyline")) == 1
    assert "rtn, 4.5 bits" in (root.findtext(f"{SVG}desc") or "")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "many", 0.0, -1.0])
def test_rows_that_have_no_place_are_left_out(value: Any) -> None:
    root = draw([*ROWS, {"bytes": 1e8, "ppl": value, "name": "absent", "by": "rtn"}], log_y=True)
    assert "absent" not in texts(root)


@pytest.mark.parametrize("rows", [[], ROWS[:1], [ROWS[0]] * 3])
def test_few_rows(rows: list[dict[str, Any]]) -> None:
    assert "perplexity" in texts(draw(rows, log_y=True, log_x=True))


def test_hostile_labels() -> None:
    root = draw([{"bytes": 1.0, "ppl": 1.0, "name": "<script>x</script>", "by": '"><b/>'}])
    assert "<script>x</script>" in texts(root)
    assert not list(root.iter(f"{SVG}script"))


def test_labels_keep_clear_of_each_other() -> None:
    points = [(300.0 + 6 * index, 200.0 + 4 * (index % 3)) for index in range(8)]
    names = [f"point {index}" for index in range(8)]
    frame = Frame(60, 40, 840, 480)
    boxes = place(points, names, [], frame)
    assert all(box.right - box.left == pytest.approx(text_width("point 1")) for box in boxes)
    for index, box in enumerate(boxes):
        assert sum(box.overlap(other) for other in boxes[:index]) == 0
        assert frame.left <= box.left and box.right <= frame.right
