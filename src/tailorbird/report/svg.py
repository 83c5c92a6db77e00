"""Markup primitives: elements, text, marker shapes. The result is well-formed XML, and HTML too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tailorbird.report.text import esc

NAMESPACE = "http://www.w3.org/2000/svg"
SHAPES = 8
Point = tuple[float, float]


def tag(name: str, /, *children: str, **attributes: object) -> str:
    """One element. `children` are markup (already escaped); attributes are escaped here.

    A trailing underscore of an attribute is dropped (``class_``), others become hyphens; None leaves it out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            words.append(f'{key.rstrip("_").replace("_", "-")}="{esc(shown)}"')
    inner = "".join(children)
    return f"<{' '.join(words)}>{inner}</{name}>" if inner else f"<{' '.join(words)}/>"


def label(x: float, y: float, content: object, *, anchor: str = "start", class_: str | None = None) -> str:
    """A line of text whose base line starts (or ends, or is centred) at (x, y)."""
    return tag("text", esc(content), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def title(content: object) -> str:
    """The text shown on hovering and read aloud."""
    return tag("title", esc(content))


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Iterable[Point], class_: str) -> str:
    """A line through points."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def picture(width: float, height: float, name: str, description: str, *children: str, class_: str = "") -> str:
    """A picture with a name and a description, as wide as its place up to its own width in pixels."""
    return tag(
        "svg",
        title(name),
        tag("desc", esc(description)),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=name,
        class_=f"chart {class_}".strip(),
        style=f"max-width:{width:g}px",
    )


def _polygon(x: float, y: float, radii: Sequence[float], turn: float) -> str:
    corners = (
        (x + radius * math.sin(angle), y - radius * math.cos(angle))
        for index, radius in enumerate(radii)
        for angle in [turn + 2 * math.pi * index / len(radii)]
    )
    return "M" + "L".join(f"{cx:.2f} {cy:.2f}" for cx, cy in corners) + "Z"


def marker(x: float, y: float, series: int, *, size: float = 4.5, hover: str = "") -> str:
    """The marker of a series: colours repeat after seven, shapes after eight, pairs of them after 56."""
    shape, quarter = series % SHAPES, math.pi / 4
    outlines = [
        [1.0] * 24,  # circle
        [1.2] * 4,  # square
        [1.3] * 3,  # triangle
        [1.25] * 4,  # diamond
        [1.3] * 3,  # triangle, point down
        [1.45, 0.6] * 5,  # star
        [1.4, 0.5] * 4,  # cross
        [1.15] * 6,  # hexagon
    ]
    turn = {1: quarter, 4: math.pi, 6: quarter}.get(shape, 0.0)
    outline = _polygon(x, y, [size * radius for radius in outlines[shape]], turn)
    return tag("path", title(hover) if hover else "", d=outline, class_=f"mark s{series % 7}")
