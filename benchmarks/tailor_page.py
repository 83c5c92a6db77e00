"""Writes docs/tailored.md from benchmarks/results/tailor.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird.files import read_json, write_atomic

Row = dict[str, Any]
ALONE = "trunk alone"

_HEAD = """# Tailoring, measured

Written by `python benchmarks/tailor.py quality`; do not edit. Streams of the last ten events of every user who has
enough of them; before an event only what came before is seen. Full ranking of the catalogue without items of the
history, ties broken pessimistically, a device counting once. *Fresh*: a head made at every event; *of the first event*:
the head that was made there, on the states of later events. Intervals hold 95 % of bootstrap draws over devices; *p* is
of a paired test against the trunk alone, of means over seeds. Heads have width 32 and are trained for as many epochs as
the last column says, the best by validation kept; the trunk is the same for all seeds. *As published* trains trunk and
generator together from nothing, with four sampled negatives.
"""


def write_page(results: Path) -> None:
    """The page, from the rows there are."""
    found = read_json(results) if results.is_file() else {}
    quality = found.get("quality", {})
    text = _HEAD + "".join(_section(key, quality[key]) for key in sorted(quality))
    text += _gains(quality) + _cost(found.get("cost"), found)
    write_atomic(results.parents[2] / "docs" / "tailored.md", text.encode())


def _section(key: str, made: Row) -> str:
    rows = sorted(made["rows"], key=lambda row: row["system"] != ALONE)
    lines = [
        f"\n## {key}\n",
        f"{made['devices']} devices, split `{made['split']}`, events with the digest `{made['digest'][:16]}`;"
        f" a trunk of {made['parameters']:,} numbers.\n",
        "| system | NDCG@10 | p | HR@10 | p | by seed | epochs |",
        "|---|--:|--:|--:|--:|---|--:|",
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _line(row: Row) -> str:
    alone = row["system"] == ALONE
    cells = [row["system"]]
    for name in ("ndcg@10", "hr@10"):
        value = row[name]
        cells.append(f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]")
        p = row[f"{name} p"]
        cells.append("" if alone else f"{p:.3f}" if p >= 0.001 else "< 0.001")
    cells += [
        "" if alone else ", ".join(f"{v:.4f}" for v in row["ndcg@10 by seed"]),
        "" if alone else str(row["epochs"]),
    ]
    return "| " + " | ".join(cells) + " |"


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
