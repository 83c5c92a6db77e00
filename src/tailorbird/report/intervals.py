"""Means with their intervals as cells of tables."""

from __future__ import annotations

from collections.abc import Mapping

from tailorbird.report.svg import tag
from tailorbird.report.text import esc, figure, number


def mean(value: object) -> str:
    """The mean of an interval, or a bare number."""
    return figure(number(value.get("mean")) if isinstance(value, Mapping) else number(value), 4)


def spread(value: object) -> str:
    """Where it lies; empty where that is not known."""
    if not isinstance(value, Mapping):
        return ""
    low, high = number(value.get("low")), number(value.get("high"))
    return f"{figure(low, 3)} to {figure(high, 3)}" if low is not None and high is not None else ""


def cell(value: object, more: str = "") -> str:
    """Markup of both, and of what else there is to say, a line each."""
    lines = [line for line in (spread(value), more) if line]
    return mean(value) + "".join(tag("div", esc(line), class_="soft") for line in lines)
