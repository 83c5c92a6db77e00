"""The error of every part by block, one line and marker shape for each kind, on a logarithmic axis."""

from __future__ import annotations

import math

from tailorbird.report.axes import Frame, room_for, x_axis, y_axis
from tailorbird.report.facts import PartFacts, Report, grouped, mean, read_parts, short_names
from tailorbird.report.scale import Scale, fit, spread
from tailorbird.report.svg import Point, label, marker, path, picture, rule, tag
from tailorbird.report.tables import note, section
from tailorbird.report.tallies import error_table, part_table
from tailorbird.report.text import figure, fit_text, text_width

_MAX_SERIES = 16
Line = dict[int, float]


def part_errors(report: Report) -> str:
    """Chart, table by kind, and the table of all parts."""
    parts = read_parts(report)
    names = short_names(part.kind for part in parts)
    lines = _lines([part for part in parts if part.block is not None])
    known = any(part.error is not None for part in parts)
    charts = ""
    if lines:
        wide, narrow = (_chart(lines, names, width) for width in (1060.0, 360.0))
        charts = tag("figure", wide, class_="wide") + tag("figure", narrow, class_="narrow")
    text = "Error of a part's output on the calibration data, relative to the output of the original weights."
    return section(
        "Error of each part" if known else "Parts",
        "errors",
        note(f"{text} Lower is better; the axis is logarithmic.") if known else "",
        charts,
        error_table(parts, names) if known else "",
        part_table(parts),
    )


def _lines(parts: list[PartFacts]) -> dict[str, Line]:
    """Positive errors by kind and block (a logarithmic axis has no place for 0)."""
    lines: dict[str, Line] = {}
    for (kind, block), members in grouped(parts, lambda part: (part.kind, part.block)).items():
        error = mean(members, lambda part: part.error)
        if error is not None and error > 0:
            lines.setdefault(kind, {})[block] = error
    return dict(list(lines.items())[:_MAX_SERIES])


def _chart(lines: dict[str, Line], names: dict[str, str], width: float) -> str:
    blocks = sorted({block for line in lines.values() for block in line})
    room = 26 + max(text_width(_name(names, kind)) for kind in lines)
    y = fit((error for line in lines.values() for error in line.values()), 340.0, 14.0, log=True)
    frame = Frame(room_for(y), 14.0, width - room, 340.0)
    at = Scale(-0.5, len(blocks) - 0.5, frame.left, frame.right)
    xs = {block: at(index) for index, block in enumerate(blocks)}
    every = math.ceil(len(blocks) / ((frame.right - frame.left) / 34))
    ticks = [(xs[block], str(block)) for block in blocks[::every]]
    marks = [x_axis(frame, ticks, "block", grid=False), y_axis(frame, y, "relative error")]
    marks += [_series(line, xs, y, index, _name(names, kind)) for index, (kind, line) in enumerate(lines.items())]
    ends = [(xs[max(line)], y(line[max(line)])) for line in lines.values()]
    marks.append(_end_labels([_name(names, kind) for kind in lines], ends, frame))
    description = f"{len(lines)} kinds of part over {len(blocks)} blocks; the tables below have the numbers."
    return picture(width, 384, "Relative output error by block", description, *marks)


def _name(names: dict[str, str], kind: str) -> str:
    return fit_text(names[kind], 84)


def _series(line: Line, xs: dict[int, float], y: Scale, index: int, name: str) -> str:
    """Line and markers; where a block's error is not known the line has a gap."""
    runs: list[list[Point]] = [[]]
    for block, x in xs.items():
        if block in line:
            runs[-1].append((x, y(line[block])))
        elif runs[-1]:
            runs.append([])
    drawn = [path(run, f"line s{index % 7}") for run in runs if len(run) > 1]
    size = 4.0 if len(xs) <= 40 else 2.8
    for block, error in line.items():
        hover = f"{name}, block {block}: {figure(error)}"
        drawn.append(marker(xs[block], y(error), index, size=size, hover=hover))
    return tag("g", *drawn)


def _end_labels(names: list[str], ends: list[Point], frame: Frame) -> str:
    places = spread([y for _, y in ends], 16.0, frame.top + 4, frame.bottom - 2)
    drawn = []
    for index, (name, (x, y), place) in enumerate(zip(names, ends, places, strict=True)):
        drawn.append(rule(x + 6, y, frame.right + 6, place, "lead faint"))
        drawn.append(marker(frame.right + 12, place, index, size=4.0))
        drawn.append(label(frame.right + 21, place + 4, name))
    return tag("g", *drawn)
