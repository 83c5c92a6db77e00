"""Writes docs/tailored.md from benchmarks/results/tailor.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tailor_claims import DEVICES, DRAWS, claims, unpacked  # beside this file

from tailorbird.files import read_json, write_atomic
from tailorbird.tasks.sequences.metrics import paired

Row = dict[str, Any]
ALONE = "trunk alone"

_HEAD = """# Tailoring, measured

Written by `python benchmarks/tailor.py quality`; do not edit. Streams of the last ten events of every user who has
enough of them; before an event only what came before is seen. Full ranking of the catalogue without items of the
history, ties broken pessimistically, a device counting once. *Fresh*: a head made at every event; *of the first event*:
the head that was made there, on the states of later events. What is scored is what a device has after the wire: every
head was encoded (most as int8), decoded and applied. Intervals hold 95 % of bootstrap draws over devices; *p* is of a
paired test against the trunk alone, of means over seeds; each pair of rows has its own below. Heads have width 32 and
are trained for as many epochs as the last column says, the best by validation kept; the trunk is the same for all
seeds. A row with the trunk's own figures had no epoch that was better than none on validation: what is sent changes
nothing there. *As published* trains trunk and generator together from nothing, with four sampled negatives and
on as many predictions as both had apart; the last epoch is kept.

*Bytes* are of one request, four an item's number, and of the patch that answers it. *Cloud*: processor milliseconds of
one thread a user, to make the patch (512 users at once; gradient steps user by user) and to encode it. One head for all
is sent once, and nobody asks for it.
"""


def write_page(results: Path) -> None:
    """The page, from the rows there are."""
    found = read_json(results) if results.is_file() else {}
    quality = found.get("quality", {})
    text = _HEAD + "".join(_section(key, quality[key]) for key in sorted(quality))
    text += _gains(quality) + claims(quality) + _cost(found.get("cost"), found)
    write_atomic(results.parents[2] / "docs" / "tailored.md", text.encode())


def packed(values: npt.NDArray[np.float64]) -> str:
    """Means by device in millionths: as text a third of what a list of JSON takes."""
    return " ".join(str(round(1e6 * value)) for value in values)


def _section(key: str, made: Row) -> str:
    rows = sorted(made["rows"], key=lambda row: row["system"] != ALONE)
    lines = [
        f"\n## {key}\n",
        f"{made['devices']} devices, split `{made['split']}`, events with the digest `{made['digest'][:16]}`;"
        f" a trunk of {made['parameters']:,} numbers.\n",
        "| | system | NDCG@10 | p | HR@10 | p | by seed | bytes up | bytes down | cloud, ms | epochs |",
        "|--:|---|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    lines += [_line(number, row) for number, row in enumerate(rows, 1)]
    if any("scored" not in row for row in rows if row["system"] != ALONE):
        lines.append("\nRows without bytes are of heads that were never sent, and are to be measured anew.")
    return "\n".join(lines) + "\n" + _pairs(rows) + _curves(made.get("curves", {}))


def _line(number: int, row: Row) -> str:
    alone = row["system"] == ALONE
    cells = [str(number), row["system"]]
    for name in ("ndcg@10", "hr@10"):
        value = row[name]
        cells.append(f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]")
        cells.append("" if alone else _p(row[f"{name} p"]))
    cells.append("" if alone else ", ".join(f"{v:.4f}" for v in row["ndcg@10 by seed"]))
    cells += [f"{row[name]:,.0f}" if name in row else "" for name in ("bytes_up", "bytes_down")]
    cells.append(f"{row['make_ms']:.3f} + {row['encode_ms']:.2f}" if "make_ms" in row else "")
    return "| " + " | ".join([*cells, "" if alone else str(row["epochs"])]) + " |"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _pairs(rows: list[Row]) -> str:
    """p of every row against every other, where the means by device are there."""
    values = {number: unpacked(row[DEVICES]) for number, row in enumerate(rows, 1) if DEVICES in row}
    if len(values) < 2:
        return ""
    count = len(values) * (len(values) - 1) // 2
    head = ["row", *map(str, values)]
    lines = [
        f"\nPaired p-values of NDCG@10 between rows; + where the row at the left has more, - where it has less. With"
        f" {count} pairs, 0.05 / {count} = {0.05 / count:.5f} is what one of them has to pass.\n",
        "| " + " | ".join(head) + " |",
        "|--:" * len(head) + "|",
    ]
    for one, mine in values.items():
        cells = [_pair(mine, other) if another > one else "" for another, other in values.items()]
        lines.append("| " + " | ".join([str(one), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _pair(mine: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> str:
    return f"{'+' if mine.mean() > other.mean() else '-'} {_p(paired(mine, other, draws=DRAWS))}"


def _curves(curves: Row) -> str:
    """Quality against requests and bytes, by system and policy."""
    if not curves:
        return ""
    lines = [
        "\nWhen to ask, first seed: requests after the first event, of nine; bytes with the first patch.\n",
        "| system | policy | requests | bytes up | bytes down | NDCG@10 | beside dice that ask as often |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for system, curve in curves.items():
        beside = {(row["policy"], row["budget"]): row for row in curve["against_random"]}
        for row in curve["rows"]:
            policy = {0.0: "never", 1.0: "always"}.get(row["budget"], row["policy"])
            if policy != row["policy"] and row["policy"] != "every":
                continue  # the same for all policies
            dice = beside.get((row["policy"], row["budget"]))
            cells = [system, policy, f"{row['requests']:.2f}", f"{row['bytes_up']:,.0f}", f"{row['bytes_down']:,.0f}"]
            cells += [f"{row['ndcg@10']:.4f}", f"{dice['difference']:+.4f}, p {_p(dice['p'])}" if dice else ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gains(quality: Row) -> str:
    """Which rows differ from the trunk alone, after Bonferroni's correction for all that were compared."""
    rows = [(key, row) for key in sorted(quality) for row in quality[key]["rows"] if row["system"] != ALONE]
    if not rows:
        return ""
    level = 0.05 / len(rows)
    means = {
        key: next(r for r in made["rows"] if r["system"] == ALONE)["ndcg@10"]["mean"] for key, made in quality.items()
    }
    found = {True: [], False: []}  # type: dict[bool, list[str]]
    for key, row in rows:
        if row["ndcg@10 p"] <= level:
            found[row["ndcg@10"]["mean"] > means[key]].append(f"{row['system']} ({key})")
    words = [
        f"\n## Which gains hold\n\nOf {len(rows)} comparisons, at p <= 0.05 / {len(rows)} (Bonferroni), NDCG@10:\n"
    ]
    for better, told in ((True, "above"), (False, "below")):
        words.append(f"- {told} the trunk alone: {'; '.join(found[better]) or 'none'}")
    return "\n".join(words) + "\n"


def _cost(cost: Row | None, about: Row) -> str:
    if not cost:
        return ""
    return f"""
## Cost

`python benchmarks/tailor.py cost`, {about["machine"]}, processor seconds of one thread, heads of width {cost["width"]},
{cost["batch"]} at a time:

| | |
|---|--:|
| heads a second from codes | {cost["heads_per_s_from_codes"]:,.0f} |
| heads a second from windows of 10 events | {cost["heads_per_s_from_10_events"]:,.0f} |
| heads a second from windows of 20 events | {cost["heads_per_s_from_20_events"]:,.0f} |
| bytes of a patch | {cost["payload_bytes"]:,} |
| to encode it | {cost["encode_ms"]:.2f} ms |
| to verify and apply it on the device | {cost["apply_ms"]:.2f} ms |
| to score the catalogue there after 20 events | {cost["score_ms"]:.2f} ms |
"""
