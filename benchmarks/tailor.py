"""What tailoring costs, and what it is worth next to simpler things.

    python benchmarks/tailor.py cost
    python benchmarks/tailor.py quality [--data ml-latest-small ml-100k] [--trunks sasrec gru4rec din] [--seeds 3]
    python benchmarks/tailor.py page

Costs are processor seconds of one thread, the best of several runs. Quality is NDCG@10 and HR@10 on the test streams
(the last ten events of every user, full ranking, a device counting once), of heads as devices have them after the wire,
with 95 % intervals and the p-value of the difference to the trunk alone; means by device are kept too, from which the
page pairs all rows. Bytes, milliseconds and the curve of requests are of the first seed. Trunks are trained as `TRUNKS`
says, and kept in .bench/tailor. Rows go to benchmarks/results/tailor.json as they are finished, a second call goes on;
from there into docs/tailored.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy; small products wait for threads more than they gain
import numpy as np
import torch
from tailor_cost import WIDTH, cost  # beside this file, like the two below
from tailor_page import ALONE, DEVICES, packed, write_page
from tailor_systems import SYSTEMS, Job

from tailorbird.files import write_json
from tailorbird.runtime.profile import processor
from tailorbird.tailor.learn import Settings
from tailorbird.tailor.manifest import digest_of
from tailorbird.tailor.run import split_of
from tailorbird.tailor.staleness import stream_of
from tailorbird.tasks.sequences import store
from tailorbird.tasks.sequences.metrics import hit, interval, ndcg, paired
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.sources import SOURCES
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.run import train_and_test

RESULTS = Path(__file__).parent / "results" / "tailor.json"
WORK = Path(__file__).parent.parent / ".bench" / "tailor"
SHAPE = {"length": 20, "width": WIDTH, "layers": 1, "dropout": 0.3}
# What the epochs of a trunk are, by its name; the best by validation is kept.
TRUNKS = {
    "sasrec": {"epochs": 30, "every": 3, "batch": 32, "rate": 0.002},
    "gru4rec": {"epochs": 30, "every": 3, "batch": 32, "rate": 0.003},
    "din": {"epochs": 30, "every": 3, "batch": 32, "rate": 0.002},
}
Row = dict[str, Any]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.part == "cost":
        _keep(cost=cost())
    for data in options.data if options.part == "quality" else ():
        for name in options.trunks:
            table(trunk_of(name, data), options)
    write_page(RESULTS)


def trunk_of(name: str, data: str) -> Path:
    """The folder of a trained trunk."""
    path = WORK / f"{name}-{data}"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        events = store.load(data)
        train_and_test(
            name, events, "last-10", path, shape=SHAPE, settings=TRUNKS[name], resume=True, told=lambda _: None
        )
    return path


def table(path: Path, options: argparse.Namespace) -> None:
    """The rows of a trunk that are not there yet, system by system; those of another trunk of its name are dropped."""
    trunk, words = folder.read(path)
    digest = digest_of({name: tensor.numpy() for name, tensor in trunk.tensors().items()})
    key = f"{trunk.name} on {words['data']['name']}"
    for system in options.systems:
        there = _results().get("quality", {}).get(key, {"rows": []})
        if any(row.get("trunk") != digest for row in there["rows"]):
            there = {"rows": []}
        how = {"part": system, "seeds": options.seeds, "epochs": options.epochs, "scored": "as sent", "trunk": digest}
        if any(how.items() <= row.items() for row in there["rows"]):
            continue
        print(key, system, flush=True)
        made = quality(path, system, options.seeds, options.epochs)
        rows, curve = [row | how for row in made.pop("rows")], made.pop("curve", None)
        curves = there.get("curves", {}) | ({system: curve} if curve else {})
        kept = [row for row in there["rows"] if row["system"] not in {row["system"] for row in rows}]
        about = {name: words[name] for name in ("shape", "settings", "parameters")} | {"curves": curves}
        _keep(quality=_results().get("quality", {}) | {key: made | about | {"rows": kept + rows}})


def _results() -> Row:
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def _keep(**found: Any) -> None:
    about = {"date": date.today().isoformat(), "torch": metadata.version("torch"), "machine": processor()}
    write_json(RESULTS, _results() | found | about)


def quality(path: Path, system: str, seeds: int, epochs: int) -> Row:
    """Rows of a system, and of the trunk alone."""
    trunk, about = folder.read(path)
    split = split_of(about, store.load(about["data"]["name"]))
    stream = stream_of(split, trunk)
    ranks: dict[str, list[Any]] = {}
    costs: Row = {}
    curve = None
    for seed in range(seeds):
        torch.manual_seed(seed)
        found = SYSTEMS[system](Job(trunk, about, split, stream, Settings(seed=seed, epochs=epochs)))
        costs, curve = costs or found.costs, curve or found.curve
        for name, each in found.ranks.items():
            ranks.setdefault(name, []).append(each)
    alone = full_ranking(split, trunk.score).ranks.reshape(stream.at.shape)
    every = {ALONE: [alone], **ranks}
    rows = [{"system": name} | _figures(some, alone) | costs.get(name, {}) for name, some in every.items()]
    for row in rows:
        print(row["system"], row["ndcg@10"], row["ndcg@10 p"], flush=True)
    made = {"split": split.name, "devices": len(stream.users), "digest": about["data"]["digest"], "rows": rows}
    return made | ({"curve": curve} if curve else {})


def _figures(seeds: list[Any], alone: Any) -> Row:
    row: Row = {}
    for name, figure in (("ndcg@10", ndcg), ("hr@10", hit)):
        values = np.mean([figure(ranks, 10).mean(1) for ranks in seeds], axis=0)
        row[name] = dataclasses.asdict(interval(values))
        row[f"{name} p"] = paired(values, figure(alone, 10).mean(1), draws=2000)
        row[f"{name} by seed"] = [float(figure(ranks, 10).mean()) for ranks in seeds]
    values = np.mean([ndcg(ranks, 10).mean(1) for ranks in seeds], axis=0)
    return row | {DEVICES: packed(values)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("cost")
    parts.add_parser("page")
    worth = parts.add_parser("quality")
    worth.add_argument("--data", nargs="+", choices=list(SOURCES), default=["ml-latest-small", "ml-100k"])
    worth.add_argument("--trunks", nargs="+", choices=list(TRUNKS), default=list(TRUNKS))
    worth.add_argument("--seeds", type=int, default=3)
    worth.add_argument("--epochs", type=int, default=6)
    worth.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
