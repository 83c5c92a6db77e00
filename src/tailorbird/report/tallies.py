"""Tables over the parts: by role, by kind, and all of them."""

from __future__ import annotations

from tailorbird.report.facts import PartFacts, grouped, mean, median
from tailorbird.report.svg import tag
from tailorbird.report.tables import table
from tailorbird.report.text import MISSING, byte_cell, duration, esc, figure, shorten
from tailorbird.report.waterfall import role_name

MAX_ROWS = 2000


def role_table(parts: list[PartFacts]) -> str:
    """Weights, bits and bytes by role; the last column counts scales and offsets too."""
    lines = []
    for role, members in grouped(parts, lambda part: part.role).items():
        weights, size = sum(part.weights for part in members), sum(part.size for part in members)
        lines.append(
            [
                esc(role_name(role)),
                f"{len(members):,}",
                f"{weights / 1e6:,.1f} M",
                figure(mean(members, lambda part: part.bits)),
                figure(8 * size / weights) if weights else MISSING,
                byte_cell(size),
            ]
        )
    heads = ["role", "parts", "weights", "bits, codes", "bits, all", "bytes"]
    return table("By role", heads, lines)


def error_table(parts: list[PartFacts], names: dict[str, str]) -> str:
    """Errors by kind of part: median, largest, and the block where it is."""
    lines = []
    for kind, members in grouped(parts, lambda part: part.kind).items():
        known = [part for part in members if part.error is not None]
        worst = max(known, key=lambda part: part.error or 0.0, default=None)
        where = MISSING if worst is None or worst.block is None else str(worst.block)
        middle = figure(median(part.error for part in members))
        largest = figure(worst.error if worst else None)
        label = tag("span", esc(shorten(names.get(kind, kind), 36)), title=kind)
        lines.append([label, f"{len(known):,} of {len(members):,}", middle, largest, where])
    heads = ["part", "known", "median error", "largest", "in block"]
    return table("Relative output error by kind of part", heads, lines)


def part_table(parts: list[PartFacts]) -> str:
    """Every part, folded away; of very many, the first ones."""
    if not parts:
        return ""
    lines = [
        [
            esc(part.name),
            esc(role_name(part.role)),
            esc(" × ".join(f"{side}" for side in part.shape)),
            figure(part.bits),
            f"{part.group_size:g}" if part.group_size else MISSING,
            byte_cell(part.size),
            figure(part.error),
            duration(part.seconds),
        ]
        for part in parts[:MAX_ROWS]
    ]
    heads = ["part", "role", "shape", "bits", "group", "bytes", "error", "time"]
    more = f"; the first {MAX_ROWS:,} are shown, report.json has all" if len(parts) > MAX_ROWS else ""
    shown = table(f"All {len(parts):,} parts{more}", heads, lines, text_columns=2)
    return tag("details", tag("summary", f"All {len(parts):,} parts as a table"), shown, class_="parts")
