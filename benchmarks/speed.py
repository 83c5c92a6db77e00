"""Seconds of every stage of `compress` on the demo model, beside the estimate made before: what `make bench` prints.

    python benchmarks/speed.py --method gptq --bits 4 --group-size 128 --samples 64 --runs 3

Rows go to benchmarks/results/speed.json. Run it on an otherwise idle machine: stages are timed by the wall clock.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tailorbird
from tailorbird.files import write_json
from tailorbird.pipeline.estimate import estimate
from tailorbird.pipeline.prepare import Prepared

MODEL = "demo:gemma-270m"
LENGTH = 512
RESULTS = Path(__file__).parent / "results" / "speed.json"


def main() -> None:
    """Time the stages, print a table, write the rows."""
    options = _options()
    guess = estimate(_job(options), options.samples * LENGTH).seconds
    runs = [_run(options) for _ in range(options.runs)]
    stages = sorted({stage for run in runs for stage in run})
    for stage in stages:
        seconds = [run[stage] for run in runs]
        told = f"   estimated {guess[stage]:7.2f} s" if guess.get(stage) else ""
        print(f"{stage:10} median {median(seconds):7.2f} s   of {', '.join(f'{s:.2f}' for s in seconds)}{told}")
    document = {
        "command": " ".join(sys.argv), "date": date.today().isoformat(), "model": MODEL,
        "runs": runs, "estimate": guess,
        "load": os.getloadavg()[0], "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    write_json(RESULTS, document)


def _job(options: argparse.Namespace) -> Prepared:
    """Every part at the same bits."""
    chosen = {} if options.group_size is None else {"group_size": options.group_size}
    ready = tailorbird.prepare(MODEL, options.method, "8bits", chosen)
    specs = {part.name: ready.method.spec(part, options.bits) for part in ready.plan.parts}
    return replace(ready, plan=replace(ready.plan, specs=specs))


def _run(options: argparse.Namespace) -> dict[str, float]:
    plan = _job(options).plan
    with tempfile.TemporaryDirectory() as scratch:
        result = tailorbird.compress(
            MODEL, Path(scratch) / "artifact", plan=plan, samples=options.samples, length=LENGTH
        )
    seconds: dict[str, Any] = dict(result.seconds)
    return {stage: float(value) for stage, value in seconds.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--runs", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
