"""Writes docs/recommenders.md from benchmarks/results/recommenders.json and, where it is there, recbole.json."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tailorbird.files import read_json, write_atomic

Row = dict[str, Any]
# NDCG@10 and HR@10 as published, full ranking: from the read-me of antklen/sasrec-bert4rec-recsys23 (SASRec with full
# softmax, BERT4Rec), of meta-recsys/generative-recommenders (GRU4Rec), and the paper on TIGER.
PUBLISHED = {
    ("ml-1m", "sasrec"): (0.1821, 0.3152),
    ("ml-1m", "bert4rec"): (0.1537, 0.2843),
    ("ml-1m", "gru4rec"): (0.1648, 0.2811),
    ("amazon-beauty", "sasrec"): (0.0327, 0.0533),
    ("amazon-beauty", "bert4rec"): (0.0187, 0.0338),
    ("amazon-beauty", "tiger"): (0.0384, 0.0648),
}
NOTES = {
    "ml-1m": (
        "In this copy the next-to-last event of 5,528 of the 6,040 users is missing ([data](sequences.md)): 512",
        "validate, and the others' test histories end one event early. Published figures are of whole histories, and",
        "above these; its authors (asash/gSASRec-pytorch) have an HR@10 of 0.239 for SASRec, of 0.300 for gSASRec.",
    )
}


def write_page(root: Path) -> None:
    """The page, from `root`/results."""
    file = root / "results" / "recommenders.json"
    found = read_json(file) if file.is_file() else {"rows": []}
    rows, simple = found["rows"], found.get("baselines", [])
    peers = root / "results" / "recbole.json"
    theirs = read_json(peers)["rows"] if peers.is_file() else []
    text = _HEAD + "".join(_section(name, rows, simple) for name in dict.fromkeys(row["data"] for row in rows))
    write_atomic(root.parent / "docs" / "recommenders.md", (text + _beside(rows, theirs)).encode())


_HEAD = """# Recommenders, measured

Written by `python benchmarks/recommenders.py`; do not edit. Leave-one-out, full ranking of the catalogue without items
of the history, ties broken pessimistically; the epoch with the best NDCG@10 on validation, tested once. In brackets:
the 95 % interval, from users drawn again with repetition. Of several seeds: means, the standard deviation over seeds,
and the means of their intervals' ends. Seconds are processor seconds until the best epoch was done, looks at validation
included; a sample is one prediction that was trained on. *Published* figures (NDCG@10 / HR@10) are other people's, on
their own copies and settings of these data: a level to expect, not a contest. For TIGER, items outside the beam are
last.
"""


def _section(data: str, rows: list[Row], simple: list[Row]) -> str:
    mine = [row for row in rows if row["data"] == data]
    lines = [
        f"\n## {data}\n",
        f"Events with the digest `{mine[0]['digest'][:16]}`. {_machines(mine)}\n",
        "| model | seeds | NDCG@10 | HR@10 | published | parameters | epochs | best after | samples/s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model in dict.fromkeys(row["model"] for row in mine):
        lines.append(_line(model, [row for row in mine if row["model"] == model]))
    lines += [
        f"\nCounting what followed the last item has an NDCG@10 of {row['validation']:.4f} on validation and of "
        f"{row['test']:.4f} on the test."
        for row in simple
        if row["digest"] == mine[0]["digest"]
    ]
    return "\n".join([*lines, *NOTES.get(data, ())]) + "\n"


def _line(model: str, same: list[Row]) -> str:
    values = [_spread([row["test"][name] for row in same]) for name in ("ndcg@10", "hr@10")]
    known = PUBLISHED.get((same[0]["data"], model))
    cells = [
        model, str(len(same)), *values, f"{known[0]:.4f} / {known[1]:.4f}" if known else "",
        f"{same[0]['parameters']:,}", f"{mean(row['epochs'] for row in same):.0f}",
        f"{mean(row['cpu_seconds_to_best'] for row in same):,.0f} s",
        f"{mean(row['samples_per_cpu_s'] for row in same):,.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _beside(rows: list[Row], theirs: list[Row]) -> str:
    """Time to the best NDCG of RecBole's model, for those of ours on the same events."""
    lines = []
    for peer in theirs:
        ours = [r for r in rows if r["model"] == peer["model"].lower() and r["digest"] == peer["digest"]]
        goal = max(peer["log"], key=lambda look: look["validation ndcg@10"])
        lines.append(_peer_line(f"RecBole {peer['model']}", peer, goal, ""))
        for row in ours:
            reached = [look for look in row["log"] if look["ndcg@10"] >= goal["validation ndcg@10"]]
            lines.append(_our_line(row, reached[0] if reached else None, goal))
    return _PEERS + "\n".join(lines) + "\n" if lines else ""


_PEERS = """
## Beside RecBole 1.2.1

The same events, split and ranking (`benchmarks/peers/recbole_run.py`), one thread. *Goal*: RecBole's best NDCG@10 on
validation. RecBole chooses its epoch and stops by its own figure, which ranks items of the history too; the test
figures are those of that epoch, without and with items of the history; RecBole's come without intervals.

| | epochs | best on validation | goal reached after | RecBole's time | samples/s | test NDCG@10 | history too |
|---|--:|--:|--:|--:|--:|--:|--:|
"""


def _peer_line(name: str, peer: Row, goal: Row, times: str) -> str:
    stopped = "" if peer.get("finished") else ", not run to its end"
    best = peer["best"]
    return (
        f"| {name} | {peer['log'][-1]['epoch']}{stopped} | {goal['validation ndcg@10']:.4f} | "
        f"{goal['cpu_seconds']:,.0f} s | {times} | {peer['samples_per_cpu_s']:,.0f} | {best['test ndcg@10']:.4f} | "
        f"{best['test ndcg@10, history too']:.4f} |"
    )


def _our_line(row: Row, reached: Row | None, goal: Row) -> str:
    when = f"{reached['cpu_seconds']:,.0f} s" if reached else "never"
    times = f"1/{goal['cpu_seconds'] / reached['cpu_seconds']:.0f}" if reached else ""
    return (
        f"| ours, {row['model']}, seed {row['seed']} | {row['epochs']} | {row['validation ndcg@10']:.4f} | {when} | "
        f"{times} | {row['samples_per_cpu_s']:,.0f} | {_spread([row['test']['ndcg@10']])} | "
        f"{_spread([row['test, history too']['ndcg@10']])} |"
    )


def _spread(figures: list[Row]) -> str:
    """Mean over seeds, how far they lie apart, and the interval where it is known."""
    values = [figure["mean"] for figure in figures]
    apart = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    known = all("low" in figure and "high" in figure for figure in figures)
    ends = [mean(figure[end] for figure in figures) for end in ("low", "high")] if known else []
    return f"{mean(values):.4f}{apart}" + (f" [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else "")


def _machines(rows: list[Row]) -> str:
    machines = sorted({f"{row['machine']}, torch {row['torch']}, {row['options']['threads']} thread" for row in rows})
    return f"{'; '.join(machines)}; {', '.join(sorted({row['date'] for row in rows}))}."
