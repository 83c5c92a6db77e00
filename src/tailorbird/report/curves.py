"""Pictures of several curves over one axis, for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailorbird.report.axes import Frame, room_for, x_axis, y_axis
from tailorbird.report.legend import legend
from tailorbird.report.scale import fit
from tailorbird.report.svg import label, marker, path, picture, rule, tag
from tailorbird.report.text import esc, figure, shorten, tick_text

_WIDTH, _HEIGHT = 520.0, 360.0


@dataclass(frozen=True)
class Dot:
    """A point of a curve; `about` is shown on hovering."""

    x: float
    y: float
    about: str = ""


def curves(
    name: str, series: Mapping[str, Sequence[Dot]], x_name: str, y_name: str, level: tuple[str, float] | None = None
) -> str:
    """A figure with a curve for every series that has points, and `level`, a height with a name, as a broken line.

    Series have their colours and markers by their place, points or not, so that pictures beside each other agree.
    """
    dots = [dot for line in series.values() for dot in line]
    if not dots:
        return ""
    known, depth = legend([shorten(one, 40) for one in series], _WIDTH, 16.0)
    heights = [dot.y for dot in dots] + ([level[1]] if level else [])
    up = fit(heights, _HEIGHT - 52, 14.0 + depth, margin=0.08)
    frame = Frame(room_for(up, 5), 14.0 + depth, _WIDTH - 14, _HEIGHT - 52)
    across = fit((dot.x for dot in dots), frame.left, frame.right, margin=0.04)
    ticks = [(across(tick), tick_text(tick)) for tick in across.ticks(6)]
    marks = [known, x_axis(frame, ticks, x_name), y_axis(frame, up, y_name, count=5)]
    if level:
        y = up(level[1])
        marks += [
            rule(frame.left, y, frame.right, y, "lead blank"),
            label(frame.right - 4, y - 5, level[0], anchor="end", class_="halo"),
        ]
    for index, line in enumerate(series.values()):
        points = [(across(dot.x), up(dot.y)) for dot in sorted(line, key=lambda dot: dot.x)]
        marks += [path(points, f"line s{index % 7}")] if len(points) > 1 else []
        marks += [marker(across(dot.x), up(dot.y), index, size=3.5, hover=dot.about) for dot in line]
    told = "; ".join(
        f"{one}: " + ", ".join(f"{figure(d.x)} {figure(d.y, 4)}" for d in line) for one, line in series.items()
    )
    return tag("figure", tag("figcaption", esc(name)), picture(_WIDTH, _HEIGHT, name, told, *marks))
