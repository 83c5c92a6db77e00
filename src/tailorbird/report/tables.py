"""Tables, plain ones and ones with a bar in every row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailorbird.report.svg import tag
from tailorbird.report.text import esc


@dataclass(frozen=True)
class Bar:
    """One row of a bar table: the bar runs from `start` to `end` (same unit as the table's `full`)."""

    name: str
    value: str
    note: str
    start: float
    end: float
    style: str = "s0"
    total: bool = False


def section(name: str, identity: str, *content: str) -> str:
    """A titled section of the page; empty if it has no content."""
    if not any(content):
        return ""
    return tag("section", tag("h2", esc(name)), *content, id=identity)


def note(text: str) -> str:
    """A paragraph that explains."""
    return tag("p", esc(text), class_="soft")


def table(caption: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table of markup; the first `text_columns` columns are text, the others numbers set flush right."""

    def style(column: int) -> str | None:
        return None if column < text_columns else "n"

    head = "".join(tag("th", esc(name), scope="col", class_=style(i)) for i, name in enumerate(heads))
    body = "".join(
        tag(
            "tr",
            tag("th", line[0], scope="row"),
            *(tag("td", cell or " ", class_=style(i)) for i, cell in enumerate(line[1:], 1)),
        )
        for line in lines
    )
    parts = (tag("caption", esc(caption)), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", tag("table", *parts), class_="scroll") if lines else ""


def settings_table(caption: str, lines: Iterable[tuple[str, object]]) -> str:
    """Names and values, those that are known."""
    known = [[esc(name), tag("code", esc(value))] for name, value in lines if value is not None]
    return table(caption, ["what", "value"], known, text_columns=2)


def bar_table(caption: str, heads: tuple[str, str, str], bars: Sequence[Bar], full: float) -> str:
    """A table whose last column shows the rows as bars on one scale from 0 to `full`.

    On a narrow screen a row becomes a grid, which hides from screen readers that it is one: hence the roles.
    """
    names = (
        tag("th", esc(name), scope="col", role="columnheader", class_="n" if i else None)
        for i, name in enumerate(heads)
    )
    top = tag("thead", tag("tr", *names, tag("td", " ", role="cell", class_="b"), role="row"), role="rowgroup")
    body = tag("tbody", *(_bar_row(bar, full) for bar in bars), role="rowgroup")
    shown = tag("table", tag("caption", esc(caption)), top, body, role="table", class_="bars")
    return tag("div", shown, class_="scroll")


def _bar_row(bar: Bar, full: float) -> str:
    low, high = (100 * min(max(edge, 0.0), full) / (full or 1) for edge in sorted((bar.start, bar.end)))
    width = max(high - low, 0.4)
    rectangle = tag("rect", x=f"{min(low, 99.6):.3f}%", width=f"{width:.3f}%", y=2, height=12, class_=bar.style, rx=1)
    return tag(
        "tr",
        tag("th", esc(bar.name), scope="row", role="rowheader"),
        tag("td", bar.value, class_="n", role="cell"),
        tag("td", bar.note or " ", class_="n", role="cell"),
        tag("td", tag("svg", rectangle, class_="bar", aria_hidden="true"), class_="b", role="cell"),
        role="row",
        class_="total" if bar.total else None,
    )
