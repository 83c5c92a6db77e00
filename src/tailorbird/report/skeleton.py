"""What every page has: a head that lets nothing run or load, a foot, and its data beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailorbird.files import write_atomic, write_json
from tailorbird.report.facts import section
from tailorbird.report.style import page_css
from tailorbird.report.svg import tag
from tailorbird.report.text import esc

PAGE, DATA = "report.html", "report.json"
# Should a hostile name ever get through the escaping, the page still may neither run nor load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(name: str, report: Mapping[str, Any], header: str, *parts: str) -> str:
    """A page with a name, a header and parts, as HTML that is also well-formed XML."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", esc(name)),
        tag("style", page_css()),
    )
    body = tag("body", header, tag("main", *parts), _footer(report))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def write_page(folder: Path, report: Mapping[str, Any], page: str) -> Path:
    """Write a page and its data into a folder, each in one step; returns the path of the page.

    Raises:
        ResourceError: the disk is full.
    """
    write_json(folder / DATA, plain(report))
    write_atomic(folder / PAGE, page.encode())
    return folder / PAGE


def plain(value: Any) -> Any:
    """`value` as JSON can hold it, keys in order."""
    if isinstance(value, Mapping):
        texts = {_text(key): item for key, item in value.items()}
        return {key: plain(item) for key, item in sorted(texts.items())}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else _text(value)


def _footer(report: Mapping[str, Any]) -> str:
    version = section(report, "versions").get("tailorbird")
    maker = f"Tailorbird {version}" if version else "Tailorbird"
    return tag("footer", tag("p", esc(f"Made by {maker}. The same data, as JSON: {DATA}."), class_="soft"))


def _text(value: object) -> str:
    """Text without lone surrogates, which UTF-8 can't hold."""
    return str(value).encode("utf-8", "replace").decode()
