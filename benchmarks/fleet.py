"""A fleet of devices of any size: trains a trunk and a generator, replays every device's last ten events under all
policies, and says how long each stage took.

    tailorbird data get ml-1m
    python benchmarks/fleet.py --data ml-1m                       # 6,040 devices
    python benchmarks/fleet.py --data ml-latest-small --epochs 3  # a small one
    python benchmarks/fleet.py --data ml-1m --model FOLDER        # a trained or tailored folder instead

Folders are kept in .bench/fleet, and what is there is not trained again; an interrupted training goes on. Rows go to
benchmarks/results/fleet.json, the curve to benchmarks/results/fleet-DATA.svg. Seconds are of the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from tailorbird.cli.simulate import drawn
from tailorbird.files import write_atomic, write_json
from tailorbird.tailor import folder
from tailorbird.tailor.run import split_of, tailor_and_test
from tailorbird.tailor.simulate import simulate
from tailorbird.tasks.sequences import store
from tailorbird.zoo.recommenders.run import train_and_test

ROOT = Path(__file__).parent
RESULTS, WORK = ROOT / "results" / "fleet.json", ROOT.parent / ".bench" / "fleet"
SPLIT, SHAPE = "last-10", {"length": 50, "width": 32, "layers": 2}
Row = dict[str, Any]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    data, seconds = store.load(options.data), {}
    model = options.model

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - start
        return found

    if model is None:
        trunk, model = WORK / f"{options.data}-trunk", WORK / f"{options.data}-{options.system}"
        settings = {"epochs": options.epochs, "batch": 128}
        if not trunk.exists():
            timed("trunk", lambda: train_and_test(
                "sasrec", data, SPLIT, trunk, shape=SHAPE, settings=settings, resume=True, told=print
            ))  # fmt: skip
        if not model.exists():
            timed("generator", lambda: tailor_and_test(
                trunk, data, model, {"epochs": options.epochs}, print, system=options.system, resume=True
            ))  # fmt: skip
    tailored = folder.read(model)
    split = split_of(tailored.about, data)
    found = timed("simulate", lambda: simulate(tailored, split, devices=options.devices, told=print))
    _keep(options, found, seconds)


def _keep(options: argparse.Namespace, found: Row, seconds: Row) -> None:
    about = {
        "date": date.today().isoformat(), "cores": os.cpu_count(), "threads": options.threads,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__, "seconds": seconds,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip
    rows: Row = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[f"{options.system} on {options.data}"] = about | found
    write_json(RESULTS, rows)
    write_atomic(ROOT / "results" / f"fleet-{options.data}.svg", drawn(found).encode())
    print(f"{found['devices']} devices, {found['events']} events each: {seconds['simulate']:.0f} s to simulate")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-1m")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--system", default="duet")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
