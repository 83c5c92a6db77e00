"""The page of a tailored model: curves of its training, a stage each, what heads of one's own are worth by group, and
what decided the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError
from tailorbird.report.facts import Report, rows, section
from tailorbird.report.header import tile
from tailorbird.report.intervals import cell, mean, spread
from tailorbird.report.skeleton import document, plain, write_page
from tailorbird.report.svg import tag
from tailorbird.report.tables import note, table
from tailorbird.report.tables import section as page_section
from tailorbird.report.text import byte_cell, esc, figure, number
from tailorbird.report.training import curve, origin

_FIGURES = {"ndcg@10": "NDCG@10", "hr@10": "HR@10"}
_GROUPS = ("tail users", "head users")


def render_tailoring(report: Mapping[str, Any]) -> str:
    """One self-contained page, like `page.render`.

    Args:
        report: plain data as `tailorbird tailor train` keeps it: `system`, `model`, `log`, `test` and what else there
            is.

    Raises:
        ArtifactError: it says nothing of a test.
    """
    report = plain(report)
    if not section(section(report, "test"), "ndcg@10"):
        raise ArtifactError("the report has no test", hint="tailor the model again; its report is not complete")
    name = f"{report.get('system', 'system')} on {report.get('model', 'model')}"
    parts = (_curves(report), _results(report), _detector(report), origin(report))
    return document(name, report, _header(name, report), *parts)


def write_tailoring(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.json`` beside a model; returns the path of the page.

    Raises:
        ArtifactError: it says nothing of a test.
        ResourceError: the disk is full.
    """
    return write_page(folder, report, render_tailoring(report))


def _header(name: str, report: Report) -> str:
    data, found = section(report, "data"), section(section(report, "test"), "ndcg@10")
    own = found.get(str(report.get("system")))
    tiles = [
        tile("Trunk alone", esc(mean(found.get("trunk"))), f"NDCG@10, {spread(found.get('trunk'))}"),
        tile("With fresh heads", esc(mean(own)), "; ".join(filter(None, (f"NDCG@10, {spread(own)}", _p(found))))),
        tile("A patch", byte_cell(number(report.get("payload"))), "for the first user of the test"),
    ]
    line = " · ".join(str(part) for part in (data.get("name"), data.get("split"), _protocol(report)) if part)
    return tag("header", tag("h1", esc(name)), tag("p", esc(line), class_="soft"), tag("dl", *tiles, class_="tiles"))


def _protocol(report: Report) -> object:
    return section(report, "test").get("protocol")


def _p(found: Report) -> str:
    p = number(found.get("p"))
    return "" if p is None else f"p {figure(p, 2)}"


def _curves(report: Report) -> str:
    log = rows(report, "log")
    stages = dict.fromkeys(str(row.get("stage", "training")) for row in log)
    drawn = [
        curve([row for row in log if str(row.get("stage", "training")) == stage], *what)
        for stage in stages
        for what in (("loss", f"Training loss: {stage}", "loss"), ("ndcg@10", f"Validation: {stage}", "NDCG@10"))
    ]
    text = "The epoch that is kept has the best validation; epoch 0 is what a stage began with."
    return page_section("Training", "training", note(text), tag("div", *drawn, class_="split")) if any(drawn) else ""


def _results(report: Report) -> str:
    test, system = section(report, "test"), str(report.get("system"))
    groups = [test, *(section(section(test, "groups"), group) for group in _GROUPS)]
    lines = []
    for key, name in _FIGURES.items():
        found = [section(group, key) for group in groups]
        lines.append([esc(f"{name}, trunk alone"), *(cell(one.get("trunk")) for one in found)])
        lines.append([esc(f"{name}, {system}"), *(cell(one.get(system), _p(one)) for one in found)])
    heads = ["all users", *(_headed(name, group) for name, group in zip(_GROUPS, groups[1:], strict=True))]
    text = (
        f"{_protocol(report) or ''}. A user counts once; intervals (95 %) come from users drawn again with repetition, "
        "p-values from flipping the signs of the differences on the same users. Heads are fresh at every event."
    )
    caption = "By the length of a user's history: the fifth with the shortest, the fifth with the longest"
    return page_section("Results on the test", "results", note(text), table(caption, ["figure", *heads], lines))


def _headed(name: str, group: Report) -> str:
    count = number(group.get("users"))
    return name if count is None else f"{name} ({count:,.0f})"


def _detector(report: Report) -> str:
    found = section(report, "detector")
    names = {"form": "form", "budget": "budget", "auc": "AUC", "rate": "requests by event", "devices": "devices"}
    lines = [
        [esc(name), esc(found[key]) if key == "form" else figure(number(found[key]))]
        for key, name in names.items() if key in found
    ]  # fmt: skip
    return page_section("Detector", "detector", table("On devices that were held out", ["what", "value"], lines))
