"""What a trunk loses when its items and layers are packed: bytes and NDCG@10 at 32, 8, 4 and 2 bits, three seeds.

    python benchmarks/trunks.py                        # trains six small trunks on the packaged data, packs each
    python benchmarks/trunks.py --models sasrec --seeds 1
    python benchmarks/trunks.py --page                 # only writes the table anew

Trunks, trained and packed, are kept in .bench/trunks and not made again; rows go to benchmarks/results/trunks.json, the
table to docs/tailor.md. Every weight has that many bits of code; scales and zero points come on top and are in the
bytes. NDCG@10 is of a full ranking of the leave-one-out test; intervals are over users, of the mean over seeds; p is of
the difference from the trunk as trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailorbird.files import write_atomic, write_json
from tailorbird.pipeline import compress, prepare
from tailorbird.tailor.trunk import read
from tailorbird.tasks.sequences import store
from tailorbird.tasks.sequences.metrics import interval, ndcg, paired, per_user
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.zoo.recommenders.run import divide, train_and_test

ROOT = Path(__file__).parent
RESULTS, WORK = ROOT / "results" / "trunks.json", ROOT.parent / ".bench" / "trunks"
PAGE = ROOT.parent / "docs" / "tailor.md"
BEGIN, END = "<!-- written by benchmarks/trunks.py: begin -->", "<!-- written by benchmarks/trunks.py: end -->"
DATA, SPLIT = "ml-latest-small", "leave-one-out"
SHAPE = {"length": 20, "width": 32, "layers": 1, "dropout": 0.3}
SETTINGS = {
    "sasrec": {"epochs": 9, "every": 3, "batch": 32, "rate": 0.003},
    "gru4rec": {"epochs": 9, "every": 3, "batch": 32, "rate": 0.003},
}
FORMS = ((8, False), (4, False), (2, False), (2, True))
METHOD = "gptq"
Row = dict[str, Any]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    found: Row = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    for model in [] if options.page else options.models:
        rows = measured(model, options.seeds)
        about = {"date": date.today().isoformat(), "torch": metadata.version("torch"), "method": METHOD}
        found["models"][model] = about | {"data": DATA, "split": SPLIT, "shape": SHAPE, "settings": SETTINGS[model]}
        found["models"][model] |= {"seeds": options.seeds, "rows": rows}
        write_json(RESULTS, found)
    write_page(found)


def measured(model: str, seeds: int) -> list[Row]:
    """Rows of one model, the trunk as trained first."""
    data = store.load(DATA)
    split = divide(data, SPLIT)
    values: dict[str, list[Any]] = {}
    sizes: dict[str, list[tuple[int, float]]] = {}
    for seed in range(seeds):
        trunk = WORK / f"{model}-{seed}"
        if not trunk.exists():
            settings = SETTINGS[model] | {"seed": seed}
            train_and_test(model, data, SPLIT, trunk, shape=SHAPE, settings=settings, resume=True, told=print)
        places = {"32": trunk} | {_name(*form): packed(trunk, *form) for form in FORMS}
        for name, place in places.items():
            ranks = full_ranking(split, read(place)[0].score)
            values.setdefault(name, []).append(per_user(ndcg(ranks.ranks, 10), ranks.cases.user))
            sizes.setdefault(name, []).append(_size(place))
            print(model, seed, name, sizes[name][-1], float(values[name][-1].mean()), flush=True)
    return [_row(name, values, sizes[name]) for name in values]


def packed(trunk: Path, bits: int, classes: bool) -> Path:
    """A trunk with every weight in so many bits, rows of the items in classes of as many bytes or not."""
    out = trunk.with_name(f"{trunk.name}-{_name(bits, classes).replace(' ', '-')}")
    if out.exists():
        return out
    job = prepare(trunk, METHOD, "8bits", {"rows": str(classes).lower()})
    plan = job.planned({part.name: job.spec(part, bits) for part in job.model.parts}).plan
    compress(trunk, out, plan=plan)
    return out


def _name(bits: int, classes: bool) -> str:
    return f"{bits} in classes" if classes else str(bits)


def _size(place: Path) -> tuple[int, float]:
    """Bytes of all tensors and the plan, and of them by weight that is packed."""
    files = [*place.glob("*.safetensors"), *place.glob("plan.json")]
    nbytes = sum(path.stat().st_size for path in files)
    return nbytes, 8 * nbytes / sum(tensor.numel() for tensor in read(place)[0].tensors().values())


def _row(name: str, values: dict[str, list[Any]], sizes: list[tuple[int, float]]) -> Row:
    mean, base = np.mean(values[name], axis=0), np.mean(values["32"], axis=0)
    row = {"bits": name, "bytes": sizes[0][0], "stored_bits": float(np.mean([bits for _, bits in sizes]))}
    row["ndcg@10"] = dataclasses.asdict(interval(mean))
    row["by_seed"] = [float(each.mean()) for each in values[name]]
    return row | {"p": None if name == "32" else paired(mean, base, draws=2000)}


def write_page(found: Row) -> None:
    """Put the table between the two marks of the page."""
    lines = [
        "| trunk | bits of a weight | bytes | bits with everything | NDCG@10, with its 95 % interval | p |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for model, about in found["models"].items():
        for row in about["rows"]:
            figure, p = row["ndcg@10"], "" if row["p"] is None else f"{row['p']:.2f}"
            text = f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
            lines.append(f"| {model} | {row['bits']} | {row['bytes']:,} | {row['stored_bits']:.2f} | {text} | {p} |")
    seeds = ", ".join(f"{model}: {about['seeds']}" for model, about in found["models"].items())
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = "\n".join(lines)
    write_atomic(PAGE, f"{before}{BEGIN}\n{table}\n\nSeeds: {seeds}.\n{END}{after}".encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
