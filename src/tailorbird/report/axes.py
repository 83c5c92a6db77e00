"""Frames, grid lines and tick labels shared by the charts."""

from __future__ import annotations

from dataclasses import dataclass

from tailorbird.report.scale import Scale
from tailorbird.report.svg import label, rule, tag
from tailorbird.report.text import esc, text_width, tick_text

_TICK, _NAME = 7.0, 22.0  # pixels from the frame to its ticks, and from the left to the end of the axis' name
_LEAST = 64.0  # so that charts below each other mostly begin at one place


@dataclass(frozen=True)
class Frame:
    """The rectangle in which data are drawn, in pixels from the top left."""

    left: float
    top: float
    right: float
    bottom: float


def room_for(scale: Scale, count: int = 6) -> float:
    """Where a frame begins whose vertical axis has this scale: its ticks and its name find room before."""
    widest = max((text_width(tick_text(value)) for value in scale.ticks(count)), default=0.0)
    return max(_LEAST, _NAME + widest + _TICK)


def x_axis(frame: Frame, ticks: list[tuple[float, str]], name: str, *, grid: bool = True) -> str:
    """Base line, tick labels at the given pixels and the axis' name, centred below."""
    marks = [rule(frame.left, frame.bottom, frame.right, frame.bottom, "lead")]
    for x, text in ticks:
        top = frame.top if grid else frame.bottom
        marks.append(rule(x, top, x, frame.bottom + 4, "grid" if grid else "lead"))
        marks.append(label(x, frame.bottom + 18, text, anchor="middle", class_="soft"))
    marks.append(label((frame.left + frame.right) / 2, frame.bottom + 38, name, anchor="middle"))
    return tag("g", *marks)


def y_axis(frame: Frame, scale: Scale, name: str, *, count: int = 6) -> str:
    """Grid lines with their values on the left and the axis' name along it."""
    marks = []
    for value in scale.ticks(count):
        y = scale(value)
        marks.append(rule(frame.left, y, frame.right, y, "grid"))
        marks.append(label(frame.left - _TICK, y + 4, tick_text(value), anchor="end", class_="soft"))
    middle = (frame.top + frame.bottom) / 2
    turned = tag("text", esc(name), transform=f"translate(14 {middle:g}) rotate(-90)", text_anchor="middle")
    return tag("g", *marks, turned)
