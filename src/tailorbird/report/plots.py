"""Pictures that stand alone, for benchmarks: SVG without script or anything from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tailorbird.report.axes import Frame, room_for, x_axis, y_axis
from tailorbird.report.labels import Box, place
from tailorbird.report.legend import legend
from tailorbird.report.scale import fit
from tailorbird.report.style import chart_css
from tailorbird.report.svg import NAMESPACE, Point, label, marker, path, picture, rule, tag
from tailorbird.report.text import figure, human_bytes, number, shorten, tick_text

_WIDTH, _HEIGHT = 860.0, 540.0
Unit = Literal["", "bytes"]


@dataclass(frozen=True)
class _Dot:
    x: float
    y: float
    label: str
    series: str


def scatter(
    rows: Sequence[Mapping[str, Any]],
    *,
    x: str,
    y: str,
    label: str,
    series: str,
    title: str,
    x_title: str,
    y_title: str,
    log_y: bool = False,
    log_x: bool = False,
    x_unit: Unit = "",
    connect: bool = True,
    curves: Collection[str] = (),
) -> str:
    """One value against another for several series, with every point named.

    Args:
        rows: records; those whose x or y is not a finite number (or, on a logarithmic axis, not positive) are
            left out.
        x, y, label, series: the keys of a record to read.
        title, x_title, y_title: what the picture and its axes are called.
        log_y, log_x: logarithmic axes.
        x_unit: ``bytes`` writes the ticks of x as kB, MB, GB.
        connect: draw a thin line through the points of a series, in the order of x.
        curves: series that are connected whatever `connect` says, and whose points only the legend names.

    Returns:
        A standalone SVG document, for light and dark surroundings.
    """
    dots = [dot for row in rows if (dot := _dot(row, (x, y, label, series), log_x, log_y))]
    names = list(dict.fromkeys(dot.series for dot in dots))
    named, depth = legend(names, _WIDTH, 50.0)
    up = fit((dot.y for dot in dots), _HEIGHT - 54, 48.0 + depth, log=log_y, margin=0.08)
    frame = Frame(room_for(up, 7), 48.0 + depth, _WIDTH - 24, _HEIGHT - 54)
    across = fit((dot.x for dot in dots), frame.left, frame.right, log=log_x, margin=0.08)
    points = [(across(dot.x), up(dot.y)) for dot in dots]
    shown = human_bytes if x_unit == "bytes" else tick_text
    ticks = [(across(tick), shown(tick).replace(".0 ", " ")) for tick in across.ticks(8)]
    marks = [x_axis(frame, ticks, x_title), y_axis(frame, up, y_title, count=7)]
    threads = {name: line for name, line in _threads(dots, points).items() if connect or name in curves}
    marks += [path(line, f"line s{names.index(name) % 7}") for name, line in threads.items()]
    marks += _labels(dots, points, list(threads.values()), frame, curves)
    for dot, (px, py) in zip(dots, points, strict=True):
        hover = f"{dot.label} ({dot.series}): {x_title} {shown(dot.x)}, {y_title} {figure(dot.y, 4)}"
        marks.append(marker(px, py, names.index(dot.series), size=5.0, hover=hover))
    return _document(title, _description(dots, shown), named, *marks)


def _dot(row: Mapping[str, Any], keys: tuple[str, str, str, str], log_x: bool, log_y: bool) -> _Dot | None:
    x, y = number(row.get(keys[0])), number(row.get(keys[1]))
    if x is None or y is None or (log_x and x <= 0) or (log_y and y <= 0):
        return None
    return _Dot(x, y, shorten(str(row.get(keys[2], "")), 28), shorten(str(row.get(keys[3], "")), 40))


def _threads(dots: list[_Dot], points: list[Point]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for dot, point in sorted(zip(dots, points, strict=True), key=lambda pair: pair[1]):
        lines.setdefault(dot.series, []).append(point)
    return {name: line for name, line in lines.items() if len(line) > 1}


def _labels(
    dots: list[_Dot], points: list[Point], threads: list[list[Point]], frame: Frame, curves: Collection[str]
) -> list[str]:
    pieces = [pair for line in threads for pair in itertools.pairwise(line)]
    names = ["" if dot.series in curves else dot.label for dot in dots]
    boxes = place(points, names, pieces, frame)
    return [_named(*one) for one in zip(names, points, boxes, strict=True) if one[0]]


def _named(name: str, point: Point, box: Box) -> str:
    """The name in its box, and a line to its point if that is not next to it."""
    x, y = min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)
    far = max(abs(x - point[0]), abs(y - point[1])) > 13
    lead = rule(point[0], point[1], x, y, "lead faint") if far else ""
    middle = (box.left + box.right) / 2
    return lead + label(middle, box.bottom - 3, name, anchor="middle", class_="halo")


def _description(dots: list[_Dot], shown: Any) -> str:
    return "; ".join(f"{dot.series}, {dot.label}: {shown(dot.x)}, {figure(dot.y, 4)}" for dot in dots)


def _document(title: str, description: str, *marks: str) -> str:
    paper = tag("rect", width=_WIDTH, height=_HEIGHT, class_="paper")
    heading = label(64, 26, title, class_="name")
    drawn = picture(_WIDTH, _HEIGHT, title, description, tag("style", chart_css()), paper, heading, *marks)
    size = f'<svg xmlns="{NAMESPACE}" width="{_WIDTH:g}" height="{_HEIGHT:g}" '
    return drawn.replace("<svg ", size, 1) + "\n"
