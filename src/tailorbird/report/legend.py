"""The names of series beside their markers."""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.report.svg import label, marker, tag
from tailorbird.report.text import text_width


def legend(names: Sequence[str], width: float, top: float) -> tuple[str, float]:
    """Markers and names of the series from the height `top` on, in as many lines as they need in a picture so wide, and
    how deep that is in pixels."""
    marks, x, y = [], 64.0, top
    for index, name in enumerate(names):
        wide = 32 + text_width(name)
        if x + wide > width - 20 and x > 64:
            x, y = 64.0, y + 20
        marks += [marker(x + 6, y - 4, index, size=5.0), label(x + 17, y, name)]
        x += wide
    return tag("g", *marks), y - top + 20 if names else 0.0
