"""The page of a trained recommender: curves of its training, what it reaches by group, and what decided the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError
from tailorbird.report.axes import Frame, room_for, x_axis, y_axis
from tailorbird.report.facts import Report, rows, section
from tailorbird.report.header import tile
from tailorbird.report.intervals import cell, mean, spread
from tailorbird.report.scale import fit
from tailorbird.report.skeleton import document, plain, write_page
from tailorbird.report.svg import label, marker, path, picture, tag
from tailorbird.report.tables import note, settings_table, table
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import MISSING, duration, esc, figure, number, percent, tick_text

_WIDTH, _HEIGHT = 520.0, 300.0
_GROUPS = ("", " tail users", " head users")
_CURVES = (("loss", "Training loss", "loss"), ("ndcg@10", "Validation", "NDCG@10"))


def render_training(report: Mapping[str, Any]) -> str:
    """One self-contained page, like `page.render`.

    Args:
        report: plain data as `tailorbird train` keeps it: `model`, `data`, `log`, `test` and what else there is.

    Raises:
        ArtifactError: it says nothing of a test.
    """
    report = plain(report)
    if not section(section(report, "test"), "figures"):
        raise ArtifactError("the report has no test", hint="train the model again; its report is not complete")
    name = f"{report.get('model', 'model')} on {section(report, 'data').get('name', 'data')}"
    parts = (_curves(report), _results(report), origin(report))
    return document(name, report, _header(name, report), *parts)


def write_training(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.json`` beside a model; returns the path of the page.

    Raises:
        ArtifactError: it says nothing of a test.
        ResourceError: the disk is full.
    """
    return write_page(folder, report, render_training(report))


def _header(name: str, report: Report) -> str:
    data, test = section(report, "data"), section(report, "test")
    figures = section(test, "figures")
    best = _best(report)
    tiles = [tile(key.upper(), esc(mean(figures.get(key))), spread(figures.get(key))) for key in ("ndcg@10", "hr@10")]
    if best is not None:
        looks = f"of {len(rows(report, 'log'))} looks, the best on validation"
        tiles.append(tile("Epoch", esc(f"{number(best.get('epoch')) or 0:.0f}"), looks))
    tiles.append(tile("Training", esc(duration(number(report.get("seconds")))), "validation included"))
    line = " · ".join(str(part) for part in (data.get("split"), test.get("protocol")) if part)
    return tag("header", tag("h1", esc(name)), tag("p", esc(line), class_="soft"), tag("dl", *tiles, class_="tiles"))


def _curves(report: Report) -> str:
    log = rows(report, "log")
    drawn = [curve(log, *one) for one in _CURVES]
    if not any(drawn):
        return ""
    text = "The epoch that is kept has the best validation; the test was looked at once, with it."
    return page_section("Training", "training", note(text), tag("div", *drawn, class_="split"))


def curve(log: list[Report], key: str, name: str, y_name: str) -> str:
    """A value by epoch, the kept epoch marked."""
    pairs = ((number(row.get("epoch")), number(row.get(key)), row.get("best") is True) for row in log)
    dots = [(x, y, best) for x, y, best in pairs if x is not None and y is not None]
    if not dots:
        return ""
    up = fit((y for _, y, _ in dots), _HEIGHT - 52, 20.0, margin=0.08)
    frame = Frame(room_for(up, 5), 20.0, _WIDTH - 14, _HEIGHT - 52)
    across = fit((x for x, _, _ in dots), frame.left, frame.right, margin=0.04)
    ticks = [(across(tick), tick_text(tick)) for tick in across.ticks(6) if tick == int(tick)]
    marks = [x_axis(frame, ticks, "epoch"), y_axis(frame, up, y_name, count=5)]
    marks.append(path([(across(x), up(y)) for x, y, _ in dots], "line s0"))
    marks += [marker(across(x), up(y), 0, size=2.5, hover=f"epoch {x:g}: {figure(y, 4)}") for x, y, _ in dots]
    kept = [(x, y) for x, y, best in dots if best][-1:]
    for x, y in kept:
        at = across(x), up(y)
        right = at[0] > (frame.left + frame.right) / 2
        marks.append(marker(*at, 1, size=5.0, hover=f"kept: epoch {x:g}, {figure(y, 4)}"))
        place = at[0] + (-9 if right else 9)
        marks.append(label(place, at[1] + 16, "kept", anchor="end" if right else "start", class_="halo"))
    told = "; ".join(f"epoch {x:g}: {figure(y, 4)}" for x, y, _ in dots)
    shown = picture(_WIDTH, _HEIGHT, f"{name}: {y_name} by epoch", told, *marks)
    return tag("figure", tag("figcaption", esc(name)), shown)


def _results(report: Report) -> str:
    test = section(report, "test")
    figures = section(test, "figures")
    groups = [
        [esc(name.upper()), *(cell(figures.get(f"{name}{of}")) for of in _GROUPS)] for name in ("ndcg@10", "hr@10")
    ]
    by_group = table(
        "By the length of a user's history: the fifth with the shortest, the fifth with the longest",
        ["figure", "all users", "tail users", "head users"], groups,
    )  # fmt: skip
    names = [name for name in figures if not name.endswith(_GROUPS[1:])]
    lines = [[esc(name), mean(figures[name]), spread(figures[name]) or MISSING] for name in _ordered(names)]
    every = table("All figures", ["figure", "value", "95 % interval"], lines)
    cases = number(test.get("cases"))
    how = f"{cases:,.0f} cases; {test.get('protocol', '')}. " if cases is not None else ""
    text = f"{how}A user counts once; intervals come from users drawn again with repetition."
    return page_section("Results on the test", "results", note(text), by_group, every)


def origin(report: Report) -> str:
    """The section of what decided a result: data, settings and versions."""
    data, settings = section(report, "data"), section(report, "settings")
    tied = number(data.get("tied"))
    about = [("data", data.get("name")), ("digest of the events", data.get("digest")), ("split", data.get("split"))]
    if tied is not None:
        about.append(("events whose time another of the same user has", percent(tied)))
    chosen = [("seed", settings.get("seed")), *((k, v) for k, v in settings.items() if k != "seed")]
    chosen += [(key, value) for of in ("options", "shape") for key, value in section(report, of).items()]
    chosen += [(key, report.get(key)) for key in ("parameters", "manifest", "torch", "threads")]
    tables = [settings_table("Data", about), settings_table("Settings", chosen)]
    return page_section("What decided it", "origin", tag("div", *tables, class_="split"))


def _best(report: Report) -> Report | None:
    return next((row for row in reversed(rows(report, "log")) if row.get("best") is True), None)


def _ordered(names: list[str]) -> list[str]:
    """As people expect them: by figure, then by its number."""

    def key(name: str) -> tuple[str, int]:
        word, _, count = name.partition("@")
        return word, int(count) if count.isdecimal() else 0

    return sorted(names, key=key)
