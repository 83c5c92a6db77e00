"""The page of a simulated fleet: curves of requests and bytes under every policy, results by group, and what decided
it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError
from tailorbird.report.curves import Dot, curves
from tailorbird.report.facts import Report, rows, section
from tailorbird.report.header import tile
from tailorbird.report.intervals import cell, mean, spread
from tailorbird.report.skeleton import document, plain, write_page
from tailorbird.report.svg import tag
from tailorbird.report.tables import note, table
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import byte_cell, esc, figure, number
from tailorbird.report.training import origin

_FIGURES = {"ndcg@10": "NDCG@10", "hr@10": "HR@10"}
_GROUPS = ("tail users", "head users")
_HOW = (
    "Every device counts once. Intervals (95 %) come from devices drawn again with repetition, p-values from flipping "
    "the signs of the differences on the same devices; they are not corrected for how many there are."
)


def render_simulation(report: Mapping[str, Any]) -> str:
    """One self-contained page, like `page.render`.

    Args:
        report: plain data as `tailorbird simulate` keeps it: `rows`, `static`, and what else there is.

    Raises:
        ArtifactError: it has no rows.
    """
    report = plain(report)
    if not rows(report, "rows"):
        raise ArtifactError("the report has no policies", hint="simulate again; the report is not complete")
    name = f"{report.get('system', 'system')} on {report.get('model', 'model')}, simulated"
    parts = (_requests(report), _bytes(report), _groups(report), _learned(report), _all(report), origin(report))
    return document(name, report, _header(name, report), *parts)


def write_simulation(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder; returns the path of the page.

    Raises:
        ArtifactError: it has no rows.
        ResourceError: the disk is full.
    """
    return write_page(folder, report, render_simulation(report))


def _header(name: str, report: Report) -> str:
    data, tiles = section(report, "data"), []
    for title, row in _states(report):
        found = row.get("ndcg@10")
        about = [f"NDCG@10, {spread(found)}", _against(row)]
        tiles.append(tile(title, esc(mean(found)), "; ".join(filter(None, about))))
    tiles.append(tile("A patch", byte_cell(number(report.get("payload"))), "mean of all that were sent"))
    devices, events = number(report.get("devices")), number(report.get("events"))
    fleet = None if devices is None or events is None else f"{devices:,.0f} devices of {events:,.0f} events each"
    line = " · ".join(str(part) for part in (data.get("name"), data.get("split"), fleet) if part)
    return tag("header", tag("h1", esc(name)), tag("p", esc(line), class_="soft"), tag("dl", *tiles, class_="tiles"))


def _states(report: Report) -> list[tuple[str, Report]]:
    """Without a head, with that of the first event, and with a fresh one at every event, as far as they are known."""
    found = [("Trunk alone", section(report, "static")), ("Head of the first event", _row_at(report, 0.0))]
    return [(name, one) for name, one in [*found, ("Fresh head at every event", _row_at(report, 1.0))] if one]


def _row_at(report: Report, budget: float) -> Report:
    """A row of a budget that all policies keep alike: never, or always."""
    found = (row for row in rows(report, "rows") if number(row.get("budget")) == budget)
    return next((row for row in found if row.get("policy") != "random"), {})


def _requests(report: Report) -> str:
    drawn = [_curve(report, "requests", 1, key, "requests a device after the first") for key in _FIGURES]
    text = "Every point is a budget of requests by event; its threshold was calibrated on the validation stream."
    return page_section("Quality against requests", "requests", note(text), tag("div", *drawn, class_="split"))


def _bytes(report: Report) -> str:
    ways = (("bytes_down", "kB down a device: patches"), ("bytes_up", "kB up a device: histories"))
    drawn = [_curve(report, key, 1000, "ndcg@10", name) for key, name in ways]
    text = "All bytes of the stream, the first patch included; a request sends the ids of the latest events."
    return page_section("Quality against bytes", "bytes", note(text), tag("div", *drawn, class_="split"))


def _curve(report: Report, key: str, unit: float, quality: str, x_name: str, group: str = "") -> str:
    """Quality, of all devices or of a group, by what is spent."""
    series: dict[str, list[Dot]] = {}
    for row in rows(report, "rows"):
        line = series.setdefault(str(row.get("policy")), [])
        found = _of(row, group).get(quality)
        x, y = number(row.get(key)), number(found.get("mean")) if isinstance(found, Mapping) else None
        if x is not None and y is not None:
            about = f"{row.get('policy')}, budget {figure(number(row.get('budget')))}: {figure(y, 4)} ({spread(found)})"
            line.append(Dot(x / unit, y, about))
    alone = _of(section(report, "static"), group).get(quality)
    level = number(alone.get("mean")) if isinstance(alone, Mapping) else None
    name = f"{_FIGURES[quality]}{' of ' + group if group else ''}"
    return curves(name, series, x_name, _FIGURES[quality], None if level is None else ("trunk alone", level))


def _of(row: Report, group: str) -> Report:
    """A row, or its entry of a group."""
    return section(section(row, "groups"), group) if group else row


def _groups(report: Report) -> str:
    drawn = [_curve(report, "requests", 1, "ndcg@10", "requests a device after the first", group) for group in _GROUPS]
    tables = [_group_table(report, key, name) for key, name in _FIGURES.items()]
    if not any(drawn):
        return ""
    text = f"Tail users are the fifth with the shortest histories before the stream, head users the longest. {_HOW}"
    return page_section("By the length of histories", "groups", note(text), tag("div", *drawn, class_="split"), *tables)


def _group_table(report: Report, key: str, name: str) -> str:
    lines = [
        [esc(title), *(cell(_of(row, group).get(key), _against(_of(row, group), key)) for group in ("", *_GROUPS))]
        for title, row in _states(report)
    ]
    heads = [
        _headed("all users", {"devices": report.get("devices")}),
        *(_headed(group, _of(section(report, "static"), group)) for group in _GROUPS),
    ]
    more = ", and how it differs from the trunk alone" if key == "ndcg@10" else ""
    return table(f"{name}{more}", ["", *heads], lines)


def _headed(name: str, of: Mapping[str, Any]) -> str:
    count = number(of.get("devices"))
    return f"{name} ({count:,.0f})" if count is not None else name


def _against(row: Report, key: str = "ndcg@10") -> str:
    """The paired test against the trunk, which is one of NDCG@10."""
    test = section(row, "against_trunk")
    difference, p = number(test.get("difference")), number(test.get("p"))
    if key != "ndcg@10" or difference is None or p is None:
        return ""
    return f"{'+' if difference > 0 else ''}{figure(difference)}, p {figure(p, 2)}"


def _learned(report: Report) -> str:
    known = section(report, "detector")
    lines = [
        [
            esc(row.get("policy")), figure(number(section(known, str(row.get("policy"))).get("auc"))),
            *(figure(number(row.get(key)), digits) for key, digits in (("budget", 3), ("rate", 3), ("difference", 3))),
            figure(number(row.get("p")), 2),
        ]
        for row in rows(report, "against_random")
    ]  # fmt: skip
    text = "A learned policy counts where it beats dice that ask exactly as often in this very stream."
    heads = ["policy", "AUC", "budget", "requests by event", "NDCG@10 against dice", "p"]
    shown = table("Paired on the same devices", heads, lines)
    return page_section("Learned policies against dice", "dice", note(text), shown) if lines else ""


def _all(report: Report) -> str:
    lines = [
        [
            esc(row.get("policy")), figure(number(row.get("budget"))), figure(number(row.get("requests"))),
            byte_cell(number(row.get("bytes_down"))), byte_cell(number(row.get("bytes_up"))),
            cell(row.get("ndcg@10"), _against(row)), cell(row.get("hr@10")),
            *(cell(_of(row, group).get("ndcg@10"), _against(_of(row, group))) for group in _GROUPS),
        ]
        for row in rows(report, "rows")
    ]  # fmt: skip
    heads = ["policy", "budget", "requests", "down", "up", "NDCG@10", "HR@10", "NDCG@10, tail", "NDCG@10, head"]
    shown = table("With 95 % intervals, differences from the trunk alone and their p-values", heads, lines)
    folded = tag("details", tag("summary", "Every policy at every budget"), shown, class_="parts")
    return page_section("All figures", "all", folded)
