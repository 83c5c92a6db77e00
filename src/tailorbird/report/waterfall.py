"""Where the bytes went: from the original down to the artifact, and what the artifact consists of."""

from __future__ import annotations

from collections.abc import Iterable

from tailorbird.report.facts import PartFacts, Report, grouped, numbers, read_parts, section
from tailorbird.report.tables import Bar, bar_table, note
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import byte_cell, number, percent

_WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_ROLES = {"mlp": "MLP", "head": "output head"}
# Written beside the artifact for people; no runtime loads them.
_NOT_LOADED = {"report.html", "report.json", "recipe.toml", "job.json"}


def waterfall(report: Report) -> str:
    """Both tables; empty if the artifact's bytes are not known."""
    old = number(section(report, "model").get("bytes"))
    new = number(section(report, "artifact").get("bytes"))
    if new is None:
        return ""
    parts = read_parts(report)
    return page_section(
        "Where the bytes went",
        "bytes",
        note("Every file that the runtime loads is counted. Hover over a size for the exact bytes."),
        _descent(report, parts, old, new) if old else "",
        _contents(report, parts, new),
    )


def role_name(role: str) -> str:
    """A role as a reader says it."""
    return _ROLES.get(role, role)


def _descent(report: Report, parts: list[PartFacts], old: float, new: float) -> str:
    model = section(report, "model")
    weights = number(model.get("weights"))
    width = _WIDTHS.get(str(model.get("dtype"))) or (old / weights if weights else 0)
    steps = [
        (role_name(role), sum(width * part.weights - part.size for part in members))
        for role, members in grouped(parts, lambda part: part.role).items()
    ]
    steps.append(("everything else", old - new - sum(saved for _, saved in steps)))
    bars, at = [Bar("original", byte_cell(old), percent(1.0), 0, old, total=True)], old
    for name, saved in steps:
        if abs(saved) >= 1:
            verb = "saved" if saved > 0 else "added"
            share = percent(-saved / old, sign=True)
            bars.append(Bar(f"{name}, {verb}", byte_cell(-saved), share, at - saved, at, "saved"))
        at -= saved
    bars.append(Bar("artifact", byte_cell(new), percent(new / old), 0, new, total=True))
    return bar_table("From the original to the artifact", ("step", "bytes", "share"), bars, max(old, new))


def _contents(report: Report, parts: list[PartFacts], new: float) -> str:
    pieces = [piece for piece in _pieces(report, parts, new) if abs(piece[1]) >= 1]
    bars, at = [], 0.0
    for name, size, style in pieces:
        bars.append(Bar(name, byte_cell(size), percent(size / new) if new else "", at, at + size, style))
        at += size
    bars.append(Bar("artifact", byte_cell(new), percent(1.0), 0, new, total=True))
    return bar_table("What the artifact consists of", ("piece", "bytes", "share"), bars, max(new, at))


def _pieces(report: Report, parts: Iterable[PartFacts], new: float) -> list[tuple[str, float, str]]:
    """(name, bytes, style) of every piece; the last one makes the sum exact."""
    found: list[tuple[str, float, str]] = []
    for role, members in grouped(parts, lambda part: part.role).items():
        codes = sum(part.codes for part in members if part.codes is not None)
        whole = sum(part.size for part in members if part.codes is None)
        rest = sum(part.size - part.codes for part in members if part.codes is not None)
        found.append((f"{role_name(role)}: codes", codes, "s0"))
        found.append((f"{role_name(role)}: scales and offsets", rest, "s1"))
        found.append((f"{role_name(role)}: codes, scales and offsets", whole, "s0"))
    found.append(("tensors kept as they were", number(report.get("kept_bytes")) or 0.0, "s2"))
    sizes = numbers(section(section(report, "artifact"), "files"))
    beside = sum(s for n, s in sizes.items() if not n.endswith(".safetensors") and n not in _NOT_LOADED)
    found.append(("tokenizer and configuration", beside, "s3"))
    rest = new - sum(size for _, size, _ in found)
    found.append(("file headers and padding" if rest >= 0 else "counted twice above", rest, "s6"))
    return found
