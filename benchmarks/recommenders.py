"""The recommenders on public data: NDCG@10 and HR@10 by full ranking, predictions a second, seconds to the best epoch.

    tailorbird data get ml-1m --from FOLDER; tailorbird data get amazon-beauty --from FOLDER
    python benchmarks/recommenders.py --data ml-latest-small ml-1m beauty --seeds 3
    python benchmarks/recommenders.py --data ml-100k --models sasrec gru4rec      # beside RecBole, see benchmarks/peers
    python benchmarks/recommenders.py --page                                      # the page alone

Leave-one-out, the epoch chosen on validation. A row is one training; its epochs are kept in .bench/recommenders, so a
run that is killed goes on where it was, and rows of the same options are not measured again. Rows go to
benchmarks/results/recommenders.json and from there into docs/recommenders.md. `--set` and `--shape` are those of
`tailorbird train`, on top of `SETTINGS` and `SHAPES` below.
"""

from __future__ import annotations

import argparse
import os
from datetime import date
from pathlib import Path
from typing import Any

import torch
from recommenders_page import write_page  # beside this file

from tailorbird.cli.train import pairs
from tailorbird.files import read_json, write_json
from tailorbird.runtime.profile import processor
from tailorbird.tasks.sequences import store
from tailorbird.tasks.sequences.baselines import markov
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import ndcg
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.sources import SOURCES
from tailorbird.tasks.sequences.split import Stage
from tailorbird.zoo.recommenders import RECOMMENDERS, folder
from tailorbird.zoo.recommenders.run import divide, figures, train_and_test

ROOT = Path(__file__).parent
RESULTS, WORK = ROOT / "results" / "recommenders.json", ROOT.parent / ".bench" / "recommenders"
Row = dict[str, Any]
STAGES: tuple[Stage, ...] = ("validation", "test")
# By family of data sets, by data set, by model, by both: the later ones win.
SHAPES: dict[Any, Row] = {
    **{("ml-1m", model): {"length": 200} for model in ("sasrec", "gru4rec", "bert4rec", "tiger")},
    ("ml-100k", "sasrec"): {"dropout": 0.5},
    ("ml-100k", "gru4rec"): {"layers": 1, "dropout": 0.3},
    "amazon": {"dropout": 0.5},
    ("amazon", "tiger"): {"dropout": 0.2},
}
SETTINGS: dict[Any, Row] = {
    "ml-latest-small": {"batch": 32},
    "ml-100k": {"batch": 32},
    "ml-1m": {"batch": 64, "epochs": 200},
    "amazon": {"epochs": 200},
    "bert4rec": {"epochs": 400, "patience": 40},
    ("amazon", "bert4rec"): {"masked": 0.4},
    ("amazon", "tiger"): {"every": 3, "patience": 5},  # a look at all users takes three times an epoch
    ("amazon-beauty", "tiger"): {"vectors": "both"},
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if not options.page:
        for name in options.data:
            data = store.load(next(known for known in SOURCES if known in (name, f"amazon-{name}")))
            _baseline(data, options.split)
            for model in options.models:
                for seed in range(options.seeds):
                    _row(data, model, seed, options)
    write_page(ROOT)


def _baseline(data: Sequences, name: str) -> None:
    """What counting what followed the last item reaches on both stages: how much harder one is than the other."""
    found = read_json(RESULTS) if RESULTS.is_file() else {"rows": []}
    key = {"data": data.name, "digest": data.digest, "split": name, "model": "markov"}
    others = [row for row in found.get("baselines", []) if not key.items() <= row.items()]
    split = divide(data, name)
    stages = {stage: full_ranking(split, markov(split), stage) for stage in STAGES}
    reached = {stage: float(ndcg(ranks.ranks, 10).mean()) for stage, ranks in stages.items()}
    write_json(RESULTS, found | {"baselines": [*others, key | reached]})


def _row(data: Sequences, model: str, seed: int, options: argparse.Namespace) -> None:
    """Measure a row that is not there yet."""
    shape = _chosen(SHAPES, data.name, model) | pairs(options.shape)
    settings = _chosen(SETTINGS, data.name, model) | pairs(options.set) | {"seed": seed}
    plain = {"shape": shape, "settings": settings, "threads": options.threads}
    key = {"data": data.name, "digest": data.digest, "split": options.split, "model": model, "seed": seed}
    about = key | {"options": plain}
    kept = read_json(RESULTS)
    rows = kept["rows"]
    if any(about.items() <= row.items() for row in rows):
        return
    print(f"{model} on {data.name}, seed {seed}", flush=True)
    out = WORK / f"{data.name}-{options.split}-{model}-{seed}"
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        train_and_test(model, data, options.split, out, shape=shape, settings=settings, resume=True, told=_told)
    found = about | _figures(out, data) | {"date": date.today().isoformat(), "machine": processor()}
    folder.forget(out)
    others = [row for row in rows if not key.items() <= row.items()]
    write_json(RESULTS, kept | {"rows": [*others, found]})
    print({name: round(found["test"][name]["mean"], 4) for name in ("ndcg@10", "hr@10")}, flush=True)


def _figures(out: Path, data: Sequences) -> Row:
    """What a trained model's folder says, and its test with items of the history among the candidates."""
    model, facts = folder.read(out)
    best = max(facts["log"], key=lambda look: look["ndcg@10"])
    last = facts["log"][-1]
    too = figures(model, divide(data, facts["data"]["split"]), seen=True)["figures"]
    return {
        "parameters": facts["parameters"], "torch": facts["torch"],
        "epochs": last["epoch"], "best_epoch": best["epoch"],
        "validation ndcg@10": best["ndcg@10"], "seconds_to_best": best["seconds"],
        "cpu_seconds_to_best": best["cpu_seconds"], "seconds": facts["seconds"], "cpu_seconds": facts["cpu_seconds"],
        "samples_per_cpu_s": facts["samples_per_s"] * facts["seconds"] / facts["cpu_seconds"],
        "load": os.getloadavg()[0], "test": {name: facts["test"]["figures"][name] for name in ("ndcg@10", "hr@10")},
        "test, history too": {name: too[name] for name in ("ndcg@10", "hr@10")},
        "log": [{name: look[name] for name in ("epoch", "ndcg@10", "seconds", "cpu_seconds")} for look in facts["log"]],
    }  # fmt: skip


def _chosen(table: dict[Any, Row], data: str, model: str) -> Row:
    keys = [data.partition("-")[0], data, model, (data.partition("-")[0], model), (data, model)]
    return {name: value for key in keys for name, value in table.get(key, {}).items()}


def _told(look: Row) -> None:
    print(
        f"  epoch {look['epoch']}: {look['ndcg@10']:.4f} {look['cpu_seconds']:.0f} s{' *' * look['best']}", flush=True
    )


def _options() -> argparse.Namespace:
    names = [*SOURCES, *(name.removeprefix("amazon-") for name in SOURCES if name.startswith("amazon-"))]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=names, default=["ml-latest-small"])
    parser.add_argument("--models", nargs="+", choices=list(RECOMMENDERS), default=list(RECOMMENDERS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--split", default="leave-one-out")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--shape", action="append", metavar="KEY=VALUE")
    parser.add_argument("--page", action="store_true", help="write the page from the rows there are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
