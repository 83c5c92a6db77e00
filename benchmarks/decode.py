"""Tokens a second of the demo model at several bit-widths, beside llama.cpp on the same machine in the same run.

    make bench-speed

Artifacts are made once and kept in .bench/speed. Perplexities are those of benchmarks/results/quality.json (looked up
by the artifact's digest, else measured) and of benchmarks/results/peers.json (a type's strongest form). Everything is
measured in turn, round by round, and a row is the median of its rounds: what else a shared machine does comes and goes
within minutes. Rows go to benchmarks/results/decode.json, the tables to docs/speed.md. Run it on an otherwise idle
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tailorbird
from tailorbird.artifact import Artifact
from tailorbird.files import read_json, write_atomic, write_json
from tailorbird.kernels import native
from tailorbird.runtime.load import load
from tailorbird.runtime.profile import processor
from tailorbird.runtime.speed import bench

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
KEPT = ROOT.parent / ".bench" / "speed"
PEERS = ROOT.parent / ".bench" / "peers-venv" / "bin" / "python"
MODEL = "demo:gemma-270m"
# Recipe and budget: trellis codes, and plain planes.
MODELS = ("trellis 4bits", "trellis 3bits", "trellis distill=2 2.75bits", "trellis distill=2 2.5bits",
          "trellis distill=2 2bits", "gptq 4bits", "gptq 3bits", "gptq propagate=0.75 distill=2 2.75bits",
          "gptq 2bits")  # fmt: skip
TEMPERATURE, DRAWN = 0.8, "outside_products where tokens are drawn"
CONTEXT, LONG = 768, "decode_long_tokens_per_s"
RATES = ("decode_tokens_per_s", LONG, "prefill_tokens_per_s", "read_bytes_per_s", "wall_tokens_per_s", "of_wall",
         "outside_products", DRAWN)  # fmt: skip
ROUNDS = "decode_tokens_per_s by round"
Row = dict[str, Any]


def main() -> None:
    """Make what is missing, measure everything, write table and rows."""
    options = _options()
    if options.page:
        _write(read_json(RESULTS / "decode.json"))
        return
    folders = {name: _artifact(*name.rsplit(" ", 1)) for name in options.models}
    native.set_threads(options.threads)
    torch.set_num_threads(options.threads)
    kept: list[tuple[list[Row], list[Row]]] = []
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
        ours = [_ours(folder, name) for name, folder in folders.items()]
        kept.append((ours, _peers(options.threads)))
    rows, peers = (_together(list(rounds)) for rounds in zip(*kept, strict=True))
    document = {
        "command": " ".join(sys.argv), "date": date.today().isoformat(), "model": MODEL, "machine": processor(),
        "threads": options.threads, "load": os.getloadavg()[0], "torch": torch.__version__,
        "rows": rows, "peers": peers,
    }  # fmt: skip
    _write(document)


def _write(found: Row) -> None:
    """Rows and page, with what the quality benchmark says of llama.cpp's types by now."""
    scored = read_json(RESULTS / "peers.json")["rows"]
    for row in found["peers"]:
        same = [r["perplexity"] for r in scored if r["type"].split(" imatrix")[0] == row["type"].split(" imatrix")[0]]
        row["perplexity"] = min(same, default=None)
    write_json(RESULTS / "decode.json", found)
    page = _page(found)
    write_atomic(ROOT.parent / "docs" / "speed.md", page.encode())
    print(page)


def _together(rounds: list[list[Row]]) -> list[Row]:
    """A row of every model: medians of its rounds, and its tokens a second in each."""
    return [
        same[0]
        | {name: median(row[name] for row in same) for name in RATES if name in same[0]}
        | {ROUNDS: [row["decode_tokens_per_s"] for row in same]}
        for same in zip(*rounds, strict=True)
    ]


def _artifact(recipe: str, budget: str) -> Path:
    folder = KEPT / f"{recipe.replace(' ', '-')}-{budget}"
    if not (folder / "job.json").exists() or not Artifact.open(folder).manifest.verified:
        print(f"compressing with {recipe} to {budget}", file=sys.stderr, flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        method, *settings = recipe.split()
        named = dict(setting.split("=", 1) for setting in settings)
        tailorbird.compress(MODEL, folder, method=method, budget=budget, options=named, resume=folder.exists())
    return folder


def _ours(folder: Path, name: str) -> Row:
    artifact = Artifact.open(folder)
    model = load(folder)
    found, drawn = bench(model), bench(model, prefill_tokens=1, temperature=TEMPERATURE)
    long = bench(model, prefill_tokens=1, context=CONTEXT)
    print(f"{name}: {found.decode_tokens_per_s:.1f} {found.prefill_tokens_per_s:.1f}", file=sys.stderr, flush=True)
    facts = {"name": name, "bits": artifact.bits, "bytes": artifact.nbytes, "perplexity": _perplexity(folder)}
    return facts | found.to_json() | {DRAWN: drawn.outside_products, LONG: long.decode_tokens_per_s}


@cache
def _perplexity(folder: Path) -> float:
    """As the quality benchmark found it for the same artifact, else measured by the same protocol."""
    digest = Artifact.open(folder).digest
    known = [row["perplexity"] for row in read_json(RESULTS / "quality.json")["rows"] if row["digest"] == digest]
    return float(known[0]) if known else tailorbird.evaluate(folder, tokens=16368).perplexity


def _peers(threads: int) -> list[Row]:
    """llama.cpp, in its own environment; none where that is not set up."""
    if not PEERS.exists():
        print("no peers: run benchmarks/peers/setup.sh first", file=sys.stderr)
        return []
    script = str(ROOT / "peers" / "speed.py")
    done = subprocess.run(
        [PEERS, script, "--threads", str(threads), "--context", str(CONTEXT)], stdout=subprocess.PIPE, check=True
    )
    return list(json.loads(done.stdout)["rows"])


def _page(found: Row) -> str:
    lines = [
        _line(
            f"tailorbird {row['name']}", row, *(f"{row[name]:.0%}" for name in ("of_wall", "outside_products", DRAWN))
        )
        for row in found["rows"]
    ]
    lines += [_line(f"llama.cpp {row['type']}", row, "", "", "") for row in found["peers"]]
    first = found["rows"][0]
    rounds = len(first[ROUNDS])
    return f"""# Speed

Written by `make bench-speed`; do not edit. Model `{found["model"]}`, {found["threads"]} threads of
{found["machine"]} ({first["kernels"]} kernels), {found["date"]}, load {found["load"]:.1f} at the end.
Decoding: {first["decode_tokens"]} tokens one after the other, after {first["context"]} tokens of text; once more after
{CONTEXT}, in a column of its own. Prefill: {first["prefill_tokens"]} tokens. Medians of
{first["runs"]} runs, and of {rounds} rounds in which all models take turns (in brackets their least and most).
Perplexity as in [Benchmarks](benchmarks.md).

*Of the wall*: of the tokens a second at which the weights of a token could be read, at the bandwidth measured in the
same run ({first["read_bytes_per_s"] / 1e9:.1f} GB/s in the first row). *Outside*: share of a token that is not spent on
products with packed weights, where the most likely token is taken, and where one is drawn at temperature {TEMPERATURE}.

| | file MB | perplexity | decode, tokens/s | of the wall | outside | outside, drawn | after {CONTEXT} | prefill |
|---|--:|--:|--:|--:|--:|--:|--:|--:|
{chr(10).join(lines)}
{_beside(found)}{_numerics()}"""


def _beside(found: Row) -> str:
    """How many times as fast as the types that lose no less."""
    lines = []
    for ours, peer in product(found["rows"], found["peers"]):
        if peer["perplexity"] is not None and peer["perplexity"] >= ours["perplexity"]:
            times = median(a / b for a, b in zip(ours[ROUNDS], peer[ROUNDS], strict=True))
            lines.append(f"| {ours['name']} | {peer['type']} | {times:.2f} |")
    if not lines:
        return ""
    return f"""
## Beside types that lose no less

How many times as many tokens a second as a type of llama.cpp with the same perplexity or a higher one; the median of
the rounds.

| tailorbird | llama.cpp | times |
|---|---|--:|
{chr(10).join(lines)}
"""


def _numerics() -> str:
    """What benchmarks/numerics.py found, where it ran."""
    path = RESULTS / "numerics.json"
    if not path.exists():
        return ""
    found = read_json(path)
    lines = [
        f"| {row['artifact']} | {row['activations']} | {row['cache']} | {row['perplexity']:.4f} | "
        f"{row['change']:+.2%} |"
        for row in found["rows"]
    ]
    return f"""
## What rounding costs

Written by `python benchmarks/numerics.py`, {found["date"]}: perplexity through the native decoder, {found["tokens"]:,}
predictions of WikiText-2 raw test; *change* against fp32 activations with keys and values in bfloat16.

| artifact | activations | keys and values | perplexity | change |
|---|---|---|--:|--:|
{chr(10).join(lines)}
"""


def _line(name: str, row: Row, *only_ours: str) -> str:
    decode = f"{row['decode_tokens_per_s']:.1f} ({min(row[ROUNDS]):.0f} to {max(row[ROUNDS]):.0f})"
    cells = [name, f"{row['bytes'] / 1e6:.1f}", _number(row["perplexity"]), decode]
    others = (f"{row[name]:.0f}" for name in (LONG, "prefill_tokens_per_s"))
    return f"| {' | '.join([*cells, *only_ours, *others])} |"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="RECIPE BUDGET")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help="write the page from the rows there are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
