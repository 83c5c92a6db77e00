"""RecBole's SASRec or GRU4Rec on one of our data sets: our events, our split, ranked by our protocol.

    bash benchmarks/peers/setup_recbole.sh
    .bench/recbole-venv/bin/python benchmarks/peers/recbole_run.py SASRec [--data ml-100k] [--epochs 300]

Every epoch is kept: interrupted, the same command goes on. RecBole stops by its own validation (NDCG@10, patience 10);
after every epoch its model is ranked by `full_ranking` too, which its clock does not count. Rows, with the curve, go to
benchmarks/results/recbole.json.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import types
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tailorbird.files import read_json, write_json  # noqa: E402
from tailorbird.tasks.sequences import store  # noqa: E402
from tailorbird.tasks.sequences.dataset import Sequences  # noqa: E402
from tailorbird.tasks.sequences.metrics import hit, ndcg  # noqa: E402
from tailorbird.tasks.sequences.ranking import Scorer, full_ranking  # noqa: E402
from tailorbird.tasks.sequences.split import Split, leave_one_out  # noqa: E402

RESULTS, WORK = ROOT / "benchmarks" / "results" / "recbole.json", ROOT / ".bench" / "recbole"
LENGTH = 50
SHAPES: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2},
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1},
}
Row = dict[str, Any]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    data = store.load(options.data)
    folder = WORK / f"{options.model}-{options.data}"
    name = f"events-of-{data.name}"  # for "ml-100k" it would read the copy in its package, whose order differs
    interactions(data, folder / name / f"{name}.inter")
    shim()
    trainer, loaders, dataset = recbole(options.model, name, folder, options.epochs)
    row: Row = {
        "model": options.model, "data": data.name, "digest": data.digest, "split": "leave-one-out",
        "threads": options.threads, "torch": torch.__version__, "shape": SHAPES[options.model], "length": LENGTH,
        "batch": 2048, "samples": len(loaders[0].dataset), "log": [],
    }  # fmt: skip
    run(trainer, loaders, watcher(trainer, dataset, leave_one_out(data), row, folder), row, folder)
    print(f"{options.model}: {row['seconds']:.0f} s, best {row['best']}")


def run(trainer: Any, loaders: Any, watch: Any, row: Row, folder: Path) -> None:
    """Train on from the last kept epoch until RecBole stops."""
    if (folder / "last.pth").is_file():
        kept = read_json(folder / "row.json")
        row["log"] = kept["log"][: next(i for i, r in enumerate(kept["log"]) if r["epoch"] == kept["epoch"]) + 1]
        trainer.resume_checkpoint(folder / "last.pth")
    watch.start()
    trainer.fit(*loaders, verbose=False, saved=False, callback_fn=watch)
    row["finished"] = True
    watch.keep()


class watcher:
    """After every epoch: our figures, the clock without the time they take, and a state to go on from."""

    def __init__(self, trainer: Any, dataset: Any, split: Split, row: Row, folder: Path) -> None:
        self.trainer, self.split, self.row, self.folder = trainer, split, row, folder
        self.score = scorer(trainer.model, dataset)

    def start(self) -> None:
        """Begin to count."""
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __call__(self, epoch: int, valid: float) -> None:
        log = self.row["log"]
        before = log[-1] if log else {"seconds": 0.0, "cpu_seconds": 0.0}
        entry = {
            "epoch": epoch + 1, "its own ndcg@10": float(valid),
            "seconds": before["seconds"] + time.perf_counter() - self.wall,
            "cpu_seconds": before["cpu_seconds"] + time.process_time() - self.cpu,
        }  # fmt: skip
        entry |= {f"{stage} {k}": v for stage in ("validation", "test") for k, v in self.figures(stage).items()}
        log.append(entry)
        print(" ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)
        self.keep()
        torch.save(checkpoint(self.trainer, epoch), aside := self.folder / "next.pth")
        aside.rename(self.folder / "last.pth")
        write_json(self.folder / "row.json", {"epoch": epoch + 1, "log": log})
        self.start()

    def figures(self, stage: Any) -> Row:
        """NDCG@10 and HR@10 without items of the history, and with them, as RecBole ranks."""
        ranks = {seen: full_ranking(self.split, self.score, stage, seen=seen).ranks for seen in (False, True)}
        return {
            f"{name}{', history too' * seen}": float(figure(found, 10).mean())
            for seen, found in ranks.items() for name, figure in (("ndcg@10", ndcg), ("hr@10", hit))
        }  # fmt: skip

    def keep(self) -> None:
        """Write the row as it is now."""
        log = self.row["log"]
        best = max(log, key=lambda entry: entry["its own ndcg@10"])
        spent = {key: log[-1][key] for key in ("seconds", "cpu_seconds")}
        per_second = self.row["samples"] * log[-1]["epoch"] / log[-1]["cpu_seconds"]
        self.row |= {"best": best, **spent, "samples_per_cpu_s": per_second, "date": date.today().isoformat()}
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
        others = [r for r in rows if (r["model"], r["data"]) != (self.row["model"], self.row["data"])]
        write_json(RESULTS, {"library": "recbole 1.2.1", "rows": [*others, self.row]})


def checkpoint(trainer: Any, epoch: int) -> Row:
    """What `Trainer.resume_checkpoint` reads."""
    return {
        "config": trainer.config, "epoch": epoch, "cur_step": trainer.cur_step,
        "best_valid_score": trainer.best_valid_score, "state_dict": trainer.model.state_dict(),
        "other_parameter": trainer.model.other_parameter(), "optimizer": trainer.optimizer.state_dict(),
    }  # fmt: skip


def scorer(model: Any, dataset: Any) -> Scorer:
    """Scores of a RecBole model for histories of our item numbers."""
    from recbole.data.interaction import Interaction

    count = dataset.item_num - 1
    theirs = np.zeros(count + 1, np.int64)
    theirs[1:] = dataset.token2id("item_id", [str(item) for item in range(1, count + 1)])

    @torch.no_grad()
    def score(histories: Any) -> Any:
        model.eval()
        ids = np.zeros((len(histories), LENGTH), np.int64)  # padded on the right
        for row, history in zip(ids, histories, strict=True):
            row[: min(len(history), LENGTH)] = theirs[history[-LENGTH:]]
        lengths = torch.tensor([min(len(history), LENGTH) for history in histories])
        batch = Interaction({"item_id_list": torch.from_numpy(ids), "item_length": lengths})
        return model.full_sort_predict(batch).view(len(histories), -1).numpy()[:, theirs]

    return score


def interactions(data: Sequences, path: Path) -> None:
    """Our events as RecBole's atomic file; an event's place stands for its time, so that the order is ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    users = np.repeat(np.arange(data.users), data.lengths)
    rows = (f"{user}\t{item}\t{place}\n" for place, (user, item) in enumerate(zip(users, data.items, strict=True)))
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    path.write_text(head + "".join(rows))


def recbole(model: str, data: str, folder: Path, epochs: int) -> Any:
    """Its trainer, its loaders of training and validation, its data set."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = SHAPES[model] | {
        "data_path": str(folder), "checkpoint_dir": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "MAX_ITEM_LIST_LENGTH": LENGTH, "train_neg_sample_args": None, "loss_type": "CE", "epochs": epochs,
        "metrics": ["NDCG", "Hit"], "topk": [10], "valid_metric": "NDCG@10", "train_batch_size": 2048,
        "use_gpu": False, "show_progress": False, "metric_decimal_place": 8,
    }  # fmt: skip
    sys.argv = sys.argv[:1]  # it reads the command line too
    config = Config(model=model, dataset=data, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    network = get_model(model)(config, train.dataset)
    return get_trainer(config["MODEL_TYPE"], model)(config, network), (train, valid), dataset


def shim() -> None:
    """What RecBole 1.2.1 needs to import and run today: no ray, names that numpy gave up, its own checkpoints."""
    os.chdir(WORK)  # it writes logs where it stands
    logging.disable(logging.INFO)
    ray = types.ModuleType("ray")
    ray.tune = types.ModuleType("ray.tune")  # type: ignore[attr-defined]
    sys.modules |= {"ray": ray, "ray.tune": ray.tune}
    gone = {"float": float, "int": int, "bool": bool, "object": object, "float_": np.float64, "unicode_": np.str_}
    for name, kind in (gone | {"complex_": np.complex128, "bool8": np.bool_}).items():
        if name not in np.__dict__:
            setattr(np, name, kind)
    load = torch.load
    torch.load = lambda *args, **options: load(*args, **options | {"weights_only": False})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(SHAPES))
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
