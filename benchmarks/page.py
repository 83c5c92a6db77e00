"""Writes docs/benchmarks.md and docs/perplexity.svg from the result files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tailorbird.files import read_json, write_atomic
from tailorbird.report import scatter

Row = dict[str, Any]
HIGHEST = 60.0  # perplexity in the picture


def write_page(root: Path) -> None:
    """Table and picture from `root`/results; peers are left out where their file is missing."""
    ours = read_json(root / "results" / "quality.json")
    others = [(read_json(file), _read_peers(file)) for file in sorted((root / "results").glob("quality-*.json"))]
    peers = _read_peers(root / "results" / "quality.json")
    memory_file = root / "results" / "memory.json"
    memory = read_json(memory_file) if memory_file.exists() else None
    docs = root.parent / "docs"
    write_atomic(docs / "perplexity.svg", _picture(ours, peers).encode())
    write_atomic(docs / "benchmarks.md", _page(ours, others, peers, memory).encode())


def _picture(ours: Row, peers: Sequence[Row]) -> str:
    """Our methods as curves, others as points. What is far off, and rows=false, is in the table only."""
    shown = [row for row in ours["rows"] if row["seed"] == 0 and "rows=false" not in row["method"]]
    points = [_point(row["method"], row["budget"], row) for row in shown]
    for peer in (peer for peer in peers if peer["type"] != "original"):
        # An importance matrix, of the embedding too or not, is told by a star.
        name = peer["type"].replace("+embedding", "").replace(" imatrix", "*")
        points.append(_point(f"the library {peer['peer']}", name, peer))
    return scatter(
        [point for point in points if point["perplexity"] < HIGHEST],
        x="weight_bytes", y="perplexity", label="label", series="series",
        title="Perplexity against stored bytes (* with an importance matrix)",
        x_title="bytes of all weights", y_title="perplexity, WikiText-2 raw test", log_x=True, log_y=True,
        x_unit="bytes", connect=False, curves=[row["method"] for row in shown],
    )  # fmt: skip


def _read_peers(quality: Path) -> list[Row]:
    """Rows of other libraries that stand beside a file of ours."""
    file = quality.with_name(quality.name.replace("quality", "peers"))
    return list(read_json(file)["rows"]) if file.exists() else []


def _page(ours: Row, others: Sequence[tuple[Row, list[Row]]], peers: Sequence[Row], memory: Row | None) -> str:
    original = ours["original"]
    machine, versions = ours["machine"], ours["versions"]
    return f"""# Benchmarks

Written by `make bench-quality`; do not edit. Model `{ours["model"]}` ({original["weights"]:,} weights), WikiText-2 raw
test, {original["tokens"]:,} predictions in windows of 1,024 tokens with BOS, no overlap.
Original: perplexity {original["perplexity"]:.3f}.
{machine["cores"]} threads of {machine["cpu"]}, torch {versions["torch"]}, {ours["date"]}.

*Bits* counts everything stored for the weights: codes, scales, zero points, bits by group, norms, file headers,
embedding and head. *File* is all a runtime loads, tokenizer included.

![Perplexity against stored bytes](perplexity.svg)

## Tailorbird

{_ours(ours["rows"], original["perplexity"])}

Spread is the standard deviation over seeds, which choose the calibration windows. Minutes are those of the whole job,
measuring, fitting and verifying; memory is the peak of its process, libraries included. The aim on two idle cores is
3 minutes, and 30 where a method learns by gradients; rows above that miss it, unless other work ran beside them.
`trellis, first tables` was measured before the tables of that [format](format.md#trellis) changed; artifacts made now
are not those.

### The best of each size, and other libraries' files of at least that size

Sizes are those of the weights, in both. *Ahead* are types with a lower perplexity than ours; the original is no type.
The aim is that none is: a row with types ahead misses it. `Q4_K_M as published` is the file that the original's numbers
are read from, so it holds them all, and whoever makes that type again finds nearly all of them on its grid.

{_best(ours["rows"], peers)}

### What was foreseen

What `compress` says before it begins (`tailorbird.pipeline.estimate`), and what then happened, in rows that were
measured since it was asked. Seconds are those that came after it was said, memory is above that of Python with its
libraries. Other jobs ran on the other core, and at times on this one.

{_foreseen(ours["rows"])}
{_large(memory) if memory else ""}
## The same model through other libraries

{_peers(peers, original["perplexity"])}
{"".join(_other(*other) for other in others)}"""


def _other(document: Row, peers: Sequence[Row]) -> str:
    original = document["original"]
    beside = f"""
{_best(document["rows"], peers)}

{_peers(peers, original["perplexity"])}
"""
    return f"""
## A second model: `{document["model"]}`

{original["weights"]:,} weights; original: perplexity {original["perplexity"]:.3f}, by the same protocol.

{_ours(document["rows"], original["perplexity"])}
{beside if peers else ""}"""


def _large(found: Row) -> str:
    """A checkpoint that is larger than the memory a job may take, from results/memory.json."""
    size, libraries, cores = found["checkpoint_bytes"] / 1e9, found["import_bytes"] / 1e9, found["machine"]["cores"]
    rows = [
        f"| {name} | {job['seconds']:,.0f} | {job['peak'] / 1e9:.2f} | {job['above_import'] / 1e9:.2f} "
        f"| {job['share']:.1%} | {job['verify_share']:.1%} | {job['bytes'] / 1e9:.2f} |"
        for name, job in found["jobs"].items()
    ]
    table = "\n".join(
        ["| method | seconds | peak | on top | share | verify | artifact GB |", "|---|--:|--:|--:|--:|--:|--:|", *rows]
    )
    return f"""
## A large checkpoint: time and memory

By `make bench-memory`: a Llama of {size / 2:.1f} billion random weights in bfloat16 ({size:.2f} GB), to 4 bits,
{cores} cores. *Peak* memory is in GB; {libraries:.2f} of it are Python with its libraries, the rest is *on top*.
*Share* is that rest of the checkpoint's bytes, at most {found["limit"]:.0%} by the benchmark's own limit; *verify*, the
same of the process that verifies. Nothing is said about quality, and other methods were not measured at this size.

{table}
"""


def _ours(rows: Sequence[Row], original: float) -> str:
    lines = [
        "| budget | method | bits | weights MB | file MB | perplexity | spread (seeds) | to original "
        "| minutes | memory |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in (row for row in rows if row["seed"] == 0):
        same = _seeds(rows, row)
        spread = f"{stdev(same):.3f} ({len(same)})" if len(same) > 1 else "one run"
        lines.append(
            f"| {row['budget']} | {row['method']} | {row['bits']:.3f} | {row['weight_bytes'] / 1e6:.1f} | "
            f"{row['bytes'] / 1e6:.1f} | {_number(mean(same))} | {spread} | {_worse(mean(same), original)} | "
            f"{row['seconds'] / 60:.1f}{_circumstances(row)} | {_memory(row)} |"
        )
    return "\n".join(lines)


def _best(rows: Sequence[Row], peers: Sequence[Row]) -> str:
    lines = [
        "| budget | best | weights | perplexity | types of at least that size | ahead | the smallest of them |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    firsts = [row | {"perplexity": mean(_seeds(rows, row))} for row in rows if row["seed"] == 0]
    for budget in dict.fromkeys(row["budget"] for row in firsts):
        best = min((row for row in firsts if row["budget"] == budget), key=lambda row: float(row["perplexity"]))
        rivals = [p for p in peers if p["weight_bytes"] >= best["weight_bytes"] and p["type"] != "original"]
        ahead = [peer for peer in rivals if peer["perplexity"] <= best["perplexity"]]
        least = min(ahead, key=lambda peer: float(peer["weight_bytes"]), default=None)
        named = f"{least['type']}, {_size(least)}, {_number(least['perplexity'])}" if least else ""
        lines.append(
            f"| {budget} | {best['method']} | {_size(best)} | {_number(best['perplexity'])} | "
            f"{len(rivals)} | {len(ahead)} | {named} |"
        )
    return "\n".join(lines)


def _size(row: Row) -> str:
    return f"{row['weight_bytes'] / 1e6:.1f} MB"


def _foreseen(rows: Sequence[Row]) -> str:
    lines = [
        "| budget | method | seconds | foreseen | memory MB | foreseen | disk MB | foreseen |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in (row for row in rows if "foreseen" in row):
        told = row["foreseen"]
        lines.append(
            f"| {row['budget']} | {row['method']} "
            f"| {_beside(row.get('after_told', row['seconds']), told['total_seconds'])} "
            f"| {_beside((row['peak_memory'] - row['libraries']) / 1e6, told['memory_bytes'] / 1e6)} "
            f"| {_beside(row['disk'] / 1e6, told['disk_bytes'] / 1e6)} |"
        )
    return "\n".join(lines)


def _beside(found: float, told: float) -> str:
    return f"{found:,.0f} | {told:,.0f} ({told / found - 1:+.0%})"


def _seeds(rows: Sequence[Row], row: Row) -> list[float]:
    """Perplexities of a row by all its seeds."""
    return [r["perplexity"] for r in rows if (r["method"], r["budget"]) == (row["method"], row["budget"])]


def _peers(rows: Sequence[Row], original: float) -> str:
    lines = [
        "| library | type | bits | weights MB | file MB | perplexity | against original | note |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["weight_bytes"]):
        lines.append(
            f"| {row['peer']} | {row['type']} | {row['weight_bits']:.3f} | {row['weight_bytes'] / 1e6:.1f} | "
            f"{row['bytes'] / 1e6:.1f} | {_number(row['perplexity'])} | {_worse(row['perplexity'], original)} | "
            f"{row['note']} |"
        )
    return "\n".join(lines)


def _circumstances(row: Row) -> str:
    """What a row's minutes must be read with."""
    said = [*(["one thread"] if row.get("threads") == 1 else []), *([row["note"]] if "note" in row else [])]
    return f" ({', '.join(said)})" if said else ""


def _memory(row: Row) -> str:
    return f"{row['peak_memory'] / 1e9:.1f} GB" if "peak_memory" in row else ""


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def _worse(value: float, original: float) -> str:
    """How far from the original: in per cent, as a factor, or not worth a figure."""
    ratio = value / original
    if ratio < 2:
        return f"{ratio - 1:+.1%}"
    return f"x {ratio:.1f}" if ratio < 1000 else "broken"


def _point(series: str, label: str, row: Row) -> Row:
    return {"series": series, "label": label, "weight_bytes": row["weight_bytes"], "perplexity": row["perplexity"]}
