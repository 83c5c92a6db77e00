"""The bit map: blocks by parts, coloured by bits with the number in every cell."""

from __future__ import annotations

import math

from tailorbird.report.cells import Look, cell
from tailorbird.report.colour import MAX_BITS, bit_colour, text_class
from tailorbird.report.facts import PartFacts, Report, grouped, read_parts, short_names
from tailorbird.report.svg import label, picture, tag, title
from tailorbird.report.tables import note, section
from tailorbird.report.tallies import role_table
from tailorbird.report.text import fit_text, shorten, text_width

_PANEL_BLOCKS = 40


def bit_map(report: Report) -> str:
    """The section; empty if no part's bits are known."""
    parts = read_parts(report)
    if not any(part.bits is not None for part in parts):
        return ""
    inside = [part for part in parts if part.block is not None]
    outside = [part for part in parts if part.block is None]
    short = short_names(part.kind for part in inside)
    broken = any(part.bits is not None and part.bits % 1 for part in parts)
    mixed = any(part.groups for part in parts)
    widest = max(map(text_width, short.values()), default=0.0)
    look = Look(min(max(44.0, widest + 6), 92.0), 34.0 if mixed else 24.0, 2 if broken else 0, mixed)
    panels = _panels(inside, short, look)
    beside = tag("div", _legend(), _alone(outside, look), role_table(parts), class_="beside")
    strip = " The bars below a number are the bits of its groups, in order." if mixed else ""
    return section(
        "Bit map",
        "bits",
        note(f"Mean bits of the codes (scales and offsets not included) of every part.{strip}"),
        tag("div", *panels, beside, class_="map"),
    )


def _panels(parts: list[PartFacts], short: dict[str, str], look: Look) -> list[str]:
    blocks = sorted({part.block for part in parts if part.block is not None})
    cells = grouped(parts, lambda part: (part.block, part.kind))
    left = 40.0
    panels = []
    count = math.ceil(len(blocks) / _PANEL_BLOCKS)
    tall = math.ceil(len(blocks) / max(count, 1))
    for first in range(0, len(blocks), max(tall, 1)):
        some = blocks[first : first + tall]
        marks = [label(left - 8, 15, "block", anchor="end", class_="soft")]
        for column, name in enumerate(short.values()):
            middle = left + (column + 0.5) * look.width
            marks.append(tag("g", title(name), label(middle, 15, fit_text(name, look.width - 4), anchor="middle")))
        for row, block in enumerate(some):
            y = 22 + row * look.pitch
            marks.append(label(left - 8, y + 16, block, anchor="end", class_="soft"))
            for column, kind in enumerate(short):
                marks.append(cell(cells.get((block, kind), []), left + column * look.width, y, look))
        size = (left + look.width * len(short), 22 + len(some) * look.pitch)
        name = f"Bits of the parts of blocks {some[0]} to {some[-1]}"
        drawn = picture(*size, name, "Rows are blocks, columns are parts.", *marks)
        panels.append(tag("figure", drawn, style=f"flex:0 1 {size[0]:g}px"))
    return panels


def _alone(parts: list[PartFacts], look: Look) -> str:
    """Embedding, head and whatever else stands outside the blocks: one cell each."""
    if not parts:
        return ""
    marks = []
    for row, part in enumerate(parts):
        y = row * look.pitch
        marks.append(cell([part], 0, y, look))
        marks.append(label(look.width + 8, y + 16, f"{shorten(part.kind, 34)} ({part.role})"))
    height = len(parts) * look.pitch
    drawn = picture(360, height, "Bits of the parts outside the blocks", "One cell for each part.", *marks)
    return tag("figure", tag("figcaption", "Outside the blocks"), drawn)


def _legend() -> str:
    cells = []
    for bits in range(1, MAX_BITS + 1):
        fill = bit_colour(bits)
        cells.append(tag("rect", x=(bits - 1) * 36.0, y=0, width=34, height=20, fill=fill, rx=2))
        cells.append(label(bits * 36.0 - 19, 14.5, bits, anchor="middle", class_=text_class(fill)))
    drawn = picture(360, 22, "Colours of the bit map", "From dark, 1 bit, to light, 8 bits.", *cells)
    return tag("figure", tag("figcaption", "Bits"), drawn)
