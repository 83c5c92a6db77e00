"""The whole page, and the two files of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.errors import ArtifactError
from tailorbird.report.bitmap import bit_map
from tailorbird.report.facts import section
from tailorbird.report.header import header
from tailorbird.report.part_errors import part_errors
from tailorbird.report.provenance import files, origin, timings
from tailorbird.report.quality import quality, samples
from tailorbird.report.skeleton import document, plain, write_page
from tailorbird.report.waterfall import waterfall


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
    report = plain(report)  # so that the page made from a written report.json is the same
    for key in ("model", "artifact"):
        if not section(report, key):
            raise ArtifactError(
                f"the report has no section {key!r}",
                hint="make the artifact again; its report is not complete",
            )
    name = f"{section(report, 'model').get('source', 'model')}, compressed"
    shown = [waterfall, quality, bit_map, part_errors, samples, timings, origin, files]
    return document(name, report, header(report), *(part(report) for part in shown))


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder, each in one step.

    Numbers that JSON can't hold (NaN, infinities) are written as null.

    Returns:
        The path of ``report.html``.

    Raises:
        ArtifactError: `model` or `artifact` is missing.
        ResourceError: the disk is full.
    """
    return write_page(folder, report, render(report))
