"""Writes the tables of docs/kernels.md from benchmarks/results/kernels.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tailorbird.errors import DataError
from tailorbird.files import write_atomic

BEGIN, END = "<!-- written by benchmarks/kernels.py: begin -->", "<!-- written by benchmarks/kernels.py: end -->"
FORMATS_ROWS = 512
Row = dict[str, Any]


def write_page(document: Row, page: Path) -> None:
    """Put the tables between the two marks of the page.

    Raises:
        DataError: the page has lost its marks.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DataError(f"{page} has no place for the tables", hint=f"it needs the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomic(page, f"{before}{BEGIN}\n{_section(document)}\n{END}{after}".encode())


def _section(document: Row) -> str:
    table = document["table"]
    places = sorted({(*row["shape"], row["rows"]) for row in table}, key=lambda p: (-p[0] * p[1], p[2]))
    tables = [_table([row for row in table if (*row["shape"], row["rows"]) == place], place) for place in places]
    held = next(place for place in places if place[2] == FORMATS_ROWS)
    return f"""
{_circumstances(document)}
In brackets: how many times as long as ours at the same bits.

{chr(10).join(tables)}
### What the formats hold

Bits a weight with everything stored for it, and the error of the product of {held[2]} rows with normal weights of
{held[0]} x {held[1]}, relative to the product in float32.

| bits | | stored bits | error |
|--:|---|--:|--:|
{_formats([row for row in table if (*row["shape"], row["rows"]) == held])}
"""


def _circumstances(document: Row) -> str:
    table = document["table"]
    runs, dates = sorted({row["runs"] for row in table}), sorted({row["date"] for row in table})
    loads, read = [row["load"] for row in table], [row["read_bytes_per_second"] / 1e9 for row in table]
    versions = ", ".join(sorted({f"{row['library']} {row['version']}" for row in table if "version" in row}))
    counted = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return (
        f"{document['threads']} threads of {document['machine']} (`{document['variant']}`), {', '.join(dates)}; the "
        f"fastest of {counted} runs. Load before the figures {min(loads):.1f} to {max(loads):.1f}; "
        f"read bandwidth at the start of the runs\n{min(read):.0f} to {max(read):.0f} GB/s. {versions}."
    )


def _table(rows: Sequence[Row], place: tuple[int, int, int]) -> str:
    ours = {row["bits"]: row for row in rows if row["library"] == "tailorbird"}
    halves = [f"torch bfloat16: {_number(row['milliseconds'])} ms." for row in rows if row["library"] == "torch"]
    lines = [
        f"| {bits} | {_number(ours[bits]['milliseconds'])} | {_cell(rows, 'onnxruntime', ours[bits])} | "
        f"{_cell(rows, 'ggml', ours[bits])} |"
        for bits in sorted(ours)
    ]
    if {2, 4} <= ours.keys() and place[2] == 1:
        times = ours[4]["milliseconds"] / ours[2]["milliseconds"]
        halves.append(f"2 bits are {times:.2f} times as fast as 4 bits.")
    title = f"({place[0]} x {place[1]}), {place[2]} row{'s' * (place[2] > 1)}, milliseconds"
    return f"""### {title}

{" ".join(halves)}

| bits | Tailorbird | onnxruntime MatMulNBits | ggml |
|--:|--:|---|---|
{chr(10).join(lines)}
"""


def _cell(rows: Sequence[Row], library: str, ours: Row) -> str:
    same = [row for row in rows if row["library"] == library and row["bits"] == ours["bits"]]
    cells = [
        f"{row['type'] + ' ' if library == 'ggml' else ''}{_number(row['milliseconds'])} "
        f"({row['milliseconds'] / ours['milliseconds']:.1f})"
        for row in sorted(same, key=lambda row: row["milliseconds"])
    ]
    return ", ".join(cells) or "-"


def _formats(rows: Sequence[Row]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: (row["bits"], row["library"] != "tailorbird")):
        stored = 8 * row["bytes"] / (row["shape"][0] * row["shape"][1])
        name = row["library"] if row["library"] == "tailorbird" else f"{row['library']} {row['type']}"
        lines.append(f"| {row['bits']} | {name} | {stored:.2f} | {row['error']:.4f} |")
    return "\n".join(lines)


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:.2f}"
