"""How the artifact was made: timings, command, versions, machine, files, digest."""

from __future__ import annotations

from tailorbird.report.facts import Report, numbers, section
from tailorbird.report.svg import tag
from tailorbird.report.tables import Bar, bar_table, table
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import byte_cell, duration, esc, number, percent

# JSON keeps no order; this is the one in which the stages run. Unknown ones follow.
_STAGES = [
    *("load", "plan", "measure", "score", "allocate", "fit", "tune", "pack", "write", "verify"),
    *("evaluate", "original", "compressed", "sample", "samples", "run", "report"),
]


def timings(report: Report) -> str:
    """The stages one after the other."""
    known = {name: took for name, took in numbers(section(report, "timings")).items() if took >= 0}
    if not known:
        return ""
    known = {name: known[name] for name in sorted(known, key=_stage_order)}
    total = known.pop("total", None)
    total = max(total or 0.0, sum(known.values()))
    bars, at = [], 0.0
    for name, took in known.items():
        share = percent(took / total, 0) if total else ""
        bars.append(Bar(name.replace("_", " "), duration(took), share, at, at + took))
        at += took
    bars.append(Bar("total", duration(total), "", 0, total, "s6", total=True))
    return page_section("Time", "time", bar_table("Stages in their order", ("stage", "time", "share"), bars, total))


def _stage_order(name: str) -> tuple[int, str]:
    return (_STAGES.index(name) if name in _STAGES else len(_STAGES), name)


def origin(report: Report) -> str:
    """The command, what it ran on, and what to compare the result with."""
    command, digest = report.get("command"), report.get("digest")
    return page_section(
        "How it was made",
        "origin",
        tag("h3", "Command") + tag("pre", tag("code", esc(command))) if command else "",
        tag("h3", "Digest (SHA-256)") + tag("pre", tag("code", esc(digest))) if digest else "",
        _pairs(("Versions", _versions(report)), ("Model and machine", _machine(report))),
    )


def files(report: Report) -> str:
    """The artifact's files and their sizes."""
    artifact = section(report, "artifact")
    sizes = numbers(section(artifact, "files"))
    lines = [[esc(name), byte_cell(size), f"{size:,.0f}"] for name, size in sizes.items()]
    return page_section("Files", "files", table("Files of the artifact", ["file", "size", "bytes"], lines))


def _pairs(*tables: tuple[str, list[list[str]]]) -> str:
    shown = [table(name, ["what", "value"], lines, text_columns=2) for name, lines in tables]
    return tag("div", *shown, class_="split") if any(shown) else ""


def _versions(report: Report) -> list[list[str]]:
    return [[esc(name), esc(version)] for name, version in section(report, "versions").items()]


def _machine(report: Report) -> list[list[str]]:
    model, machine = section(report, "model"), section(report, "machine")
    weights = number(model.get("weights"))
    lines = [["model", esc(model["source"])]] if model.get("source") else []
    lines += [["family", esc(model["family"])]] if model.get("family") else []
    lines += [["weights", f"{weights:,.0f}"]] if weights is not None else []
    lines += [["stored as", esc(model["dtype"])]] if model.get("dtype") else []
    names = {"cpu": "processor", "memory_gb": "memory, GB"}
    lines += [[esc(names.get(str(key), key)), esc(value)] for key, value in machine.items() if value is not None]
    return lines
