"""The whole page, and the two files of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError
from tailorbird.files import write_atomic, write_json
from tailorbird.report.bitmap import bit_map
from tailorbird.report.facts import section
from tailorbird.report.header import header
from tailorbird.report.part_errors import part_errors
from tailorbird.report.provenance import files, origin, timings
from tailorbird.report.quality import quality, samples
from tailorbird.report.style import page_css
from tailorbird.report.svg import tag
from tailorbird.report.text import esc
from tailorbird.report.waterfall import waterfall

# Should a hostile name ever get through the escaping, the page still may neither run nor load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Mapping[str, Any]) -> str:
    """One self-contained page: no script, nothing loaded from elsewhere, every text from outside escaped.

    Args:
        report: plain data as in ``report.json``. `model` and `artifact` must be there; any other section that
            is missing or null is left out of the page.

    Returns:
        HTML that is also well-formed XML.

    Raises:
        ArtifactError: `model` or `artifact` is missing.
    """
    report = _plain(report)  # so that the page made from a written report.json is the same
    for key in ("model", "artifact"):
        if not section(report, key):
            raise ArtifactError(
                f"the report has no section {key!r}",
                hint="make the artifact again; its report is not complete",
            )
    name = f"{section(report, 'model').get('source', 'model')}, compressed"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", esc(name)),
        tag("style", page_css()),
    )
    shown = [waterfall, quality, bit_map, part_errors, samples, timings, origin, files]
    body = tag("body", header(report), tag("main", *(part(report) for part in shown)), _footer(report))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder, each in one step.

    Numbers that JSON can't hold (NaN, infinities) are written as null.

    Returns:
        The path of ``report.html``.

    Raises:
        ArtifactError: `model` or `artifact` is missing.
        ResourceError: the disk is full.
    """
    page = folder / "report.html"
    write_json(folder / "report.json", _plain(report))
    write_atomic(page, render(report).encode())
    return page


def _footer(report: Mapping[str, Any]) -> str:
    version = section(report, "versions").get("tailorbird")
    maker = f"Tailorbird {version}" if version else "Tailorbird"
    return tag("footer", tag("p", esc(f"Made by {maker}. The same data, as JSON: report.json."), class_="soft"))


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it, keys in order."""
    if isinstance(value, Mapping):
        texts = {_text(key): item for key, item in value.items()}
        return {key: _plain(item) for key, item in sorted(texts.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else _text(value)


def _text(value: object) -> str:
    """Text without lone surrogates, which UTF-8 can't hold."""
    return str(value).encode("utf-8", "replace").decode()
