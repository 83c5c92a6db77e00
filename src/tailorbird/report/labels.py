"""Where to write the names of points so that they hide each other as little as possible."""

from __future__ import annotations

from dataclasses import dataclass

from tailorbird.report.axes import Frame
from tailorbird.report.svg import Point
from tailorbird.report.text import text_width

_LINE = 13.0
_ROUNDS = 4


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that two rectangles share."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0


def place(points: list[Point], names: list[str], lines: list[tuple[Point, Point]], frame: Frame) -> list[Box]:
    """A box for every name, beside its point.

    Every label takes the cheapest of its candidate places (overlaps with labels, markers and lines cost, and
    so does distance); a few rounds let the early ones move again when the late ones have settled.
    """
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    threads = [box for line in lines for box in _beads(*line)]
    boxes: list[Box | None] = [None] * len(points)
    for _ in range(_ROUNDS):
        for index, (point, name) in enumerate(zip(points, names, strict=True)):
            others = [box for other, box in enumerate(boxes) if box and other != index]
            costs = [
                (rank + _cost(box, others, markers, threads, frame), rank, box)
                for rank, box in enumerate(_candidates(point, text_width(name)))
            ]
            boxes[index] = min(costs, key=lambda item: item[:2])[2]
    return [box for box in boxes if box]


def _candidates(point: Point, width: float) -> list[Box]:
    """Places from the best to the worst: close by first, then further off (those get a leading line)."""
    x, y = point
    found = []
    for gap in (9.0, 22.0, 38.0):
        for right, down in ((1, 0), (0, -1), (0, 1), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            near = gap if not (right and down) else gap * 0.7
            left = x - width / 2 if not right else x + near if right > 0 else x - near - width
            top = y - _LINE / 2 if not down else y + near if down > 0 else y - near - _LINE
            found.append(Box(left, top, left + width, top + _LINE))
    return found


def _beads(start: Point, end: Point) -> list[Box]:
    """A line as a string of small boxes."""
    (x1, y1), (x2, y2) = start, end
    count = int(max(abs(x2 - x1), abs(y2 - y1)) / 8) + 1
    spots = ((x1 + (x2 - x1) * i / count, y1 + (y2 - y1) * i / count) for i in range(count + 1))
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in spots]


def _cost(box: Box, labels: list[Box], markers: list[Box], threads: list[Box], frame: Frame) -> float:
    inside = box.overlap(Box(frame.left, frame.top, frame.right, frame.bottom))
    outside = (box.right - box.left) * (box.bottom - box.top) - inside
    cost = 2.0 * outside + 1.0 * sum(box.overlap(other) for other in labels)
    cost += 0.8 * sum(box.overlap(other) for other in markers)
    return cost + 0.25 * sum(box.overlap(other) for other in threads)
