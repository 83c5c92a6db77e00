"""What long histories cost and what they are worth: HyTRec next to full attention.

    python benchmarks/long_histories.py time [--lengths 100 ... 10000]
    python benchmarks/long_histories.py quality TRUNK OTHER ... [--long 200]

Time is processor seconds of one thread for one prediction from a history of so many events, weights random, the best of
several runs; a SASRec of as many layers stands beside it. TRUNK and OTHER are folders of `tailorbird train` on the same
data and split; figures are HR@10 and NDCG@10 on the test, full ranking, a user counting once, for all users and for
those with at least `--long` events, with 95 % intervals and the p-value of the difference to TRUNK. Rows go to
benchmarks/results/long_histories.json, tables to docs/sequences.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailorbird.errors import DataError
from tailorbird.files import write_atomic, write_json
from tailorbird.runtime.profile import processor
from tailorbird.tasks.sequences import store
from tailorbird.tasks.sequences.metrics import hit, interval, ndcg, paired, per_user
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.zoo.recommenders import find, folder
from tailorbird.zoo.recommenders.run import divide

ROOT = Path(__file__).parent
RESULTS, PAGE = ROOT / "results" / "long_histories.json", ROOT.parent / "docs" / "sequences.md"
BEGIN, END = "<!-- benchmarks/long_histories.py: begin -->", "<!-- benchmarks/long_histories.py: end -->"
LENGTHS = (100, 200, 500, 1000, 2000, 5000, 10_000)
SIZES = {"items": 1000, "length": 10_000, "width": 64, "layers": 4, "heads": 2}
Row = dict[str, Any]


def main() -> None:
    """Measure one part, keep the other, write rows and page."""
    options = _options()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    about = {"date": date.today().isoformat(), "torch": metadata.version("torch"), "machine": processor()}
    if options.part == "time":
        found["time"] = about | {
            "load": os.getloadavg()[0],
            "sizes": SIZES,
            "rows": times(options.lengths, options.runs),
        }
    else:
        found["quality"] = about | quality([options.trunk, *options.others], options.long)
    write_json(RESULTS, found)
    write_page(found, PAGE)


def times(lengths: Sequence[int], runs: int) -> list[Row]:
    """Processor seconds of one prediction by length."""
    torch.manual_seed(0)
    kinds = [find(name) for name in ("hytrec", "sasrec")]
    models = {kind.name: kind(kind.sizes(**SIZES)).eval() for kind in kinds}
    random, rows = np.random.default_rng(0), []
    for length in lengths:
        ids = torch.from_numpy(random.integers(1, SIZES["items"] + 1, (1, length)))
        row: Row = {"length": length} | {name: seconds(model, ids, runs) for name, model in models.items()}
        rows.append(row)
        print(row, flush=True)
    return rows


@torch.no_grad()
def seconds(model: Any, ids: torch.Tensor, runs: int) -> float:
    """Of one thread, the best of several runs after one that is not counted."""
    found = []
    for _ in range(runs + 1):
        start = time.process_time()
        model.last(ids)
        found.append(time.process_time() - start)
    return min(found[1:])


def quality(paths: Sequence[Path], long: int) -> Row:
    """Figures of every folder, for all users and for those of long histories."""
    rows: list[Row] = []
    first: dict[str, Any] = {}
    _, about = folder.read(paths[0])
    split = divide(store.load(about["data"]["name"]), about["data"]["split"])
    cases = split.test
    start = np.minimum.reduceat(cases.at, np.unique(cases.user, return_index=True)[1])
    users = np.unique(cases.user)
    groups = {"all": np.ones(len(users), bool), "long": start - split.data.offsets[users] >= long}
    for path in paths:
        model, words = folder.read(path)
        if words["data"] != about["data"]:
            raise DataError(f"{path} was trained on other data than {paths[0]}", hint="the same data and split")
        ranks = full_ranking(split, model.score, timed=model.timed).ranks
        row: Row = {
            "folder": path.name,
            "model": model.name,
            "shape": model.shape.to_json(),
            "seconds": words["seconds"],
        }
        row |= {"settings": words["settings"], "parameters": words["parameters"]}
        for name, figure in (("hr@10", hit), ("ndcg@10", ndcg)):
            values = per_user(figure(ranks, 10), cases.user)
            for group, mine in groups.items():
                key = f"{name} {group}"
                first.setdefault(key, values[mine])
                row[key] = dataclasses.asdict(interval(values[mine]))
                row[f"{key} p"] = paired(values[mine], first[key], draws=2000)
        rows.append(row)
        print(row["folder"], {key: row[key] for key in ("hr@10 all", "hr@10 long", "hr@10 long p")}, flush=True)
    counts = {group: int(mine.sum()) for group, mine in groups.items()}
    return {"data": about["data"], "long": long, "users": counts, "rows": rows}


def write_page(found: Row, page: Path) -> None:
    """Put the tables between the two marks of the page.

    Raises:
        DataError: the page has lost its marks.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DataError(f"{page} has no place for the tables", hint=f"it needs the lines {BEGIN} and {END}")
    parts = [_time_table(found["time"])] if "time" in found else []
    parts += [_quality_table(found["quality"])] if "quality" in found else []
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomic(page, f"{before}{BEGIN}\n{chr(10).join(parts)}\n{END}{after}".encode())


def _time_table(found: Row) -> str:
    sizes, rows = found["sizes"], found["rows"]
    lines = ["| events | HyTRec, ms | full attention, ms | full / HyTRec |", "|--:|--:|--:|--:|"]
    for row in rows:
        ours, full = 1000 * row["hytrec"], 1000 * row["sasrec"]
        lines.append(f"| {row['length']:,} | {ours:.1f} | {full:.1f} | {full / ours:.1f} |")
    by = {row["length"]: row for row in rows}
    grown = ""
    if {5000, 10_000} <= by.keys():
        ratios = [by[10_000][name] / by[5000][name] for name in ("hytrec", "sasrec")]
        words = [f"{ratio:.1f} times" for ratio in ratios]
        grown = f"\nFrom 5,000 to 10,000 events HyTRec takes {words[0]} as long, full attention {words[1]}.\n"
    return f"""
Processor time of one prediction, one thread of {found["machine"]}, torch {found["torch"]},
{found["date"]}, load {found["load"]:.1f}; width {sizes["width"]}, {sizes["layers"]} layers (HyTRec two short ones
besides), full attention by SASRec.

{chr(10).join(lines)}
{grown}"""


def _quality_table(found: Row) -> str:
    lines = [
        f"| model | HR@10, all {found['users']['all']} users | HR@10, the {found['users']['long']} with long histories "
        "| p | NDCG@10, those | p |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for place, row in enumerate(found["rows"]):
        p = ["" if place == 0 else f"{row[f'{name} long p']:.2f}" for name in ("hr@10", "ndcg@10")]
        lines.append(
            f"| {row['model']}, {row['shape']['length']:,} events | {_figure(row['hr@10 all'])} | "
            f"{_figure(row['hr@10 long'])} | {p[0]} | {_figure(row['ndcg@10 long'])} | {p[1]} |"
        )
    data = found["data"]
    return f"""
On {data["name"]}, split {data["split"]}, full ranking; long histories have at least {found["long"]} events.
p: difference to the first row on the same users.

{chr(10).join(lines)}
"""


def _figure(value: Row) -> str:
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    clock = parts.add_parser("time")
    clock.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    clock.add_argument("--runs", type=int, default=3)
    worth = parts.add_parser("quality")
    worth.add_argument("trunk", type=Path)
    worth.add_argument("others", type=Path, nargs="*")
    worth.add_argument("--long", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
