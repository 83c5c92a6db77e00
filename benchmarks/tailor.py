"""What tailoring costs, and what it is worth next to simpler things.

    python benchmarks/tailor.py cost
    python benchmarks/tailor.py quality [--data ml-latest-small ml-100k] [--trunks sasrec gru4rec din] [--seeds 3]
    python benchmarks/tailor.py page

Costs are processor seconds of one thread, the best of several runs. Quality is NDCG@10 and HR@10 on the test streams
(the last ten events of every user, full ranking, a device counting once), with 95 % intervals and the p-value of the
difference to the trunk alone. Trunks are trained as `TRUNKS` says, and kept in .bench/tailor. Rows go to
benchmarks/results/tailor.json as they are finished, a second call goes on; from there into docs/tailored.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tailor_page import ALONE, write_page  # beside this file

from tailorbird.files import write_json
from tailorbird.runtime.profile import processor
from tailorbird.tailor.device import Device
from tailorbird.tailor.diet import Diet
from tailorbird.tailor.duet import Duet, Static
from tailorbird.tailor.finetune import finetuned
from tailorbird.tailor.folder import tensors_of
from tailorbird.tailor.head import NAMES, manifest_for, shapes
from tailorbird.tailor.learn import Settings, heads_for, published, scorer, train
from tailorbird.tailor.patch import full
from tailorbird.tailor.persona import trained as personas
from tailorbird.tailor.run import split_of
from tailorbird.tailor.staleness import rank_table, ranks_of, stream_of
from tailorbird.tailor.wire import encode
from tailorbird.tasks.sequences import store
from tailorbird.tasks.sequences.metrics import hit, interval, ndcg, paired
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.sources import SOURCES
from tailorbird.zoo.recommenders import find, folder, settings, training
from tailorbird.zoo.recommenders.model import Shape, shape_of
from tailorbird.zoo.recommenders.run import train_and_test

RESULTS = Path(__file__).parent / "results" / "tailor.json"
WORK = Path(__file__).parent.parent / ".bench" / "tailor"
WIDTH, BATCH, RUNS = 32, 2048, 7
LONGER, LONGER_BY = "longer", 5
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
    """The rows of a trunk that are not there yet, system by system."""
    trunk, words = folder.read(path)
    key = f"{trunk.name} on {words['data']['name']}"
    for system in options.systems:
        there = _results().get("quality", {}).get(key, {"rows": []})
        how = {"part": system, "seeds": options.seeds, "epochs": options.epochs}
        if any(how.items() <= row.items() for row in there["rows"]):
            continue
        print(key, system, flush=True)
        made = quality(path, system, options.seeds, options.epochs)
        rows = [row | how for row in made.pop("rows")]
        kept = [row for row in there["rows"] if row["system"] not in {row["system"] for row in rows}]
        about = {"shape": words["shape"], "settings": words["settings"], "parameters": words["parameters"]}
        _keep(quality=_results().get("quality", {}) | {key: made | about | {"rows": kept + rows}})


def _results() -> Row:
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def _keep(**found: Any) -> None:
    about = {"date": date.today().isoformat(), "torch": metadata.version("torch"), "machine": processor()}
    write_json(RESULTS, _results() | found | about)


def cost() -> Row:
    """Heads a second on one core, bytes of one, and what a device pays."""
    torch.manual_seed(0)
    maker = Duet(WIDTH).eval()
    trunk = find("sasrec")(Shape(3000, length=20, width=WIDTH, layers=1)).eval()
    tensors = tensors_of(trunk)
    manifest = manifest_for(tensors)
    row: Row = {"width": WIDTH, "numbers": sum(int(np.prod(shape)) for shape in shapes(WIDTH).values()), "batch": BATCH}
    with torch.no_grad():
        codes = torch.randn(BATCH, WIDTH)
        row["heads_per_s_from_codes"] = BATCH / seconds(lambda: maker.heads(codes))
        for length in (10, 20):
            vectors, counts = torch.randn(BATCH, length, WIDTH), torch.full((BATCH,), length)
            row[f"heads_per_s_from_{length}_events"] = BATCH / seconds(lambda v=vectors, c=counts: maker(v, c))
    random = np.random.default_rng(0)
    head = {name: (0.3 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes(WIDTH).items()}
    message = encode(full(head, manifest), tensors, manifest, tolerance=0.01)
    device = Device("sasrec", trunk.shape.to_json(), tensors, manifest)
    row["payload_bytes"] = len(message)
    row["encode_ms"] = 1000 * seconds(lambda: encode(full(head, manifest), tensors, manifest, tolerance=0.01))
    row["apply_ms"] = 1000 * seconds(lambda: device.take(message))
    row["score_ms"] = 1000 * seconds(lambda: device.scores(list(range(1, 21))))
    print(json.dumps(row, indent=1))
    return row


def seconds(work: Callable[[], Any], enough: float = 0.2) -> float:
    """Processor seconds of one call, the best of `RUNS` loops."""
    work()
    start = time.process_time()
    work()
    times = max(1, int(enough / max(time.process_time() - start, 1e-6) / RUNS))
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - start) / times)
    return best


def quality(path: Path, system: str, seeds: int, epochs: int) -> Row:
    """Rows of a system, and of the trunk alone."""
    trunk, about = folder.read(path)
    split = split_of(about, store.load(about["data"]["name"]))
    stream = stream_of(split, trunk)
    ranks: dict[str, list[Any]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        settings = Settings(seed=seed, epochs=epochs)
        made = longer(about, split, stream, seed) if system == LONGER else None
        for name, found in (made or SYSTEMS[system](trunk, split, stream, settings)).items():
            ranks.setdefault(name, []).append(found)
    alone = full_ranking(split, trunk.score).ranks.reshape(stream.at.shape)
    rows = [{"system": name} | _figures(each, alone) for name, each in {ALONE: [alone], **ranks}.items()]
    for row in rows:
        print(row["system"], row["ndcg@10"], row["ndcg@10 p"], flush=True)
    return {"split": split.name, "devices": len(stream.users), "digest": about["data"]["digest"], "rows": rows}


def static(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    return {"one head for all": tested(trunk, learned(trunk, Static(trunk.shape.width), split, settings), stream)[0]}


def duet(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    fresh, old = tested(trunk, learned(trunk, Duet(trunk.shape.width), split, settings), stream)
    return {"duet, fresh": fresh, "duet, made at the first event": old}


def as_published(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    joint, maker = published(type(trunk), trunk)
    learned(joint, maker, split, settings)
    return {"duet as published, fresh": full_ranking(split, scorer(joint, maker)).ranks.reshape(stream.at.shape)}


def diet(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    base = learned(trunk, Static(trunk.shape.width), split, settings)
    maker = learned(trunk, Diet(dict(zip(NAMES, base.values, strict=True))), split, settings)
    fresh, old = tested(trunk, maker, stream)
    return {"diet, fresh": fresh, "diet, made at the first event": old}


def persona(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    base = learned(trunk, Static(trunk.shape.width), split, settings)
    fresh, old = tested(trunk, personas(trunk, base, split, settings), stream)
    return {"persona, fresh": fresh, "persona, made at the first event": old}


def learned(trunk: Any, maker: Any, split: Any, settings: Settings) -> Any:
    """The maker, trained."""
    train(trunk, maker, split, settings, lambda row: print(type(maker).__name__, row))
    return maker


def tested(trunk: Any, maker: Any, stream: Any) -> tuple[Any, Any]:
    """Ranks with fresh heads, and with those of the first event."""
    histories = [stream.history(d, e) for d in range(len(stream.users)) for e in range(stream.at.shape[1])]
    made = {n: t.numpy() for n, t in heads_for(trunk, maker, histories).items()}
    heads = {n: v.reshape(*stream.at.shape, *v.shape[1:]) for n, v in made.items()}
    table = rank_table(stream, heads, trunk.items.weight.detach().numpy()[: trunk.shape.items + 1])
    fresh = np.broadcast_to(np.arange(stream.at.shape[1]), stream.at.shape)
    return ranks_of(table, fresh), ranks_of(table, np.zeros_like(fresh))


def tuned(trunk: Any, split: Any, stream: Any, settings: Settings) -> dict[str, Any]:
    """Heads trained on each user's own events up to the first of the stream, used for all of it."""
    start = dict(zip(NAMES, Static(trunk.shape.width).values, strict=True))
    items = trunk.items.weight.detach().numpy()[: trunk.shape.items + 1]
    histories = [stream.history(device, 0) for device in range(len(stream.users))]
    found = {}
    for steps, rate in ((10, 1e-3), (30, 3e-3)):
        made = finetuned(trunk, start, histories, steps=steps, rate=rate)
        heads = {n: np.repeat(v[:, None], stream.at.shape[1], axis=1) for n, v in made.items()}
        ranks = ranks_of(rank_table(stream, heads, items), np.zeros(stream.at.shape, np.int64))
        found[f"fine-tuned per user at the first event, {steps} steps of {rate:g}"] = ranks
    return found


def longer(about: Row, split: Any, stream: Any, seed: int) -> dict[str, Any]:
    """The trunk trained anew, as it was, on histories five times as long: what reading more is worth without a head."""
    shape = shape_of(about["shape"] | {"length": LONGER_BY * about["shape"]["length"]})
    chosen = settings.Settings(**about["settings"] | {"seed": seed})
    model = find(about["name"])(shape)
    training.train(training.begin(model, chosen), split, chosen, lambda state: print("longer", state.log[-1]))
    ranks = full_ranking(split, model.score).ranks.reshape(stream.at.shape)
    return {f"trunk trained on {shape.length} events in place of {about['shape']['length']}": ranks}


SYSTEMS = {
    "static": static, "duet": duet, "published": as_published, "finetune": tuned, "diet": diet, "persona": persona
}  # fmt: skip


def _figures(seeds: list[Any], alone: Any) -> Row:
    row: Row = {}
    for name, figure in (("ndcg@10", ndcg), ("hr@10", hit)):
        values = np.mean([figure(ranks, 10).mean(1) for ranks in seeds], axis=0)
        row[name] = dataclasses.asdict(interval(values))
        row[f"{name} p"] = paired(values, figure(alone, 10).mean(1), draws=2000)
        row[f"{name} by seed"] = [float(figure(ranks, 10).mean()) for ranks in seeds]
    return row


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
    worth.add_argument("--systems", nargs="+", choices=[*SYSTEMS, LONGER], default=[*SYSTEMS, LONGER])
    return parser.parse_args()


if __name__ == "__main__":
    main()
