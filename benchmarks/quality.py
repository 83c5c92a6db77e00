"""Perplexity at equal real bytes: our methods at several budgets, beside other libraries.

    make bench-quality                                        # everything, which takes a day; resumes where it stopped
    python benchmarks/quality.py --budgets 3bits --recipes gptq "slim-llm search=0" --seeds 0
    python benchmarks/quality.py --model demo:qwen2.5-coder-0.5b --recipes rtn gptq

A recipe is the name of a method and its options; `allocate=NAME` among them is how the budget is shared out. Every row
is made by a process of its own, so that its peak memory is its own. Rows go to benchmarks/results/quality.json (other
models: quality-NAME.json) as they are finished; the tables in docs/benchmarks.md and the picture docs/perplexity.svg
are written from those files and from benchmarks/results/peers.json (see benchmarks/peers/README.md).
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import platform
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

import tailorbird
from tailorbird import data
from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.partial import partial_folder
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import BudgetError, UsageError
from tailorbird.files import read_json, write_json
from tailorbird.methods import find, methods
from tailorbird.pipeline import Prepared
from tailorbird.pipeline.calibration import BATCH
from tailorbird.pipeline.estimate import estimate
from tailorbird.runtime.profile import processor
from tailorbird.tasks.language import evaluate
from tailorbird.tasks.text import Tokenizer
from tailorbird.tasks.windows import evaluation_windows

ROOT = Path(__file__).parent
MODEL = "demo:gemma-270m"
SAMPLES, LENGTH = 64, 512
BUDGETS = ["4.25bits", "3.25bits", "2.75bits", "2.25bits", "1.75bits"]
# Beside every method as it is: what can be done where a model's norms keep its residual stream from being rotated, and
# refinements.
MORE = ["quarot rotate_residual=false", "spinquant rotate_residual=false", "gptq propagate=0.75", "trellis distill=2"]


def main() -> None:
    """Run what is missing, then write the page."""
    options = _options()
    file = results_file(options.model)
    rows = read_json(file)["rows"] if file.exists() else []
    every = [(r, b, s) for s in options.seeds for b in options.budgets for r in options.recipes]
    wanted = [(recipe, budget, seed) for recipe, budget, seed in every if seed == 0 or _samples(recipe)]
    missing = [key for key in wanted if key not in {(r["method"], r["budget"], r["seed"]) for r in rows}]
    if missing:
        bench = Bench(options.model, options.tokens, options.keep)
        for number, (recipe, budget, seed) in enumerate(missing, 1):
            print(f"[{number}/{len(missing)}] {recipe} {budget} seed {seed}", file=sys.stderr, flush=True)
            try:
                rows.append(bench.row(recipe, budget, seed))
            except (UsageError, BudgetError) as error:  # not this method with this model, or at this size: go on
                print(f"left out: {error}", file=sys.stderr, flush=True)
                continue
            write_json(file, _document(options.model, rows, bench.original))
    from page import write_page  # beside this file

    write_page(ROOT)


def results_file(model: str) -> Path:
    """Where the rows of a model are kept."""
    name = "quality" if model == MODEL else f"quality-{model.rpartition(':')[2].replace('/', '-')}"
    return ROOT / "results" / f"{name}.json"


class Bench:
    """The evaluation text and the original model, measured once."""

    def __init__(self, source: str, tokens: int, keep: Path | None = None) -> None:
        self.source, self.keep = source, keep
        model = Model.open(open_checkpoint(source))
        tokenizer = Tokenizer.of(open_checkpoint(source))
        self.windows = evaluation_windows(tokenizer, data.read_text(data.WIKITEXT2_TEST), tokens)
        metrics = evaluate(model, self.windows)
        self.original = {"perplexity": metrics.perplexity, "tokens": metrics.tokens, "weights": model.numel}

    def row(self, recipe: str, budget: str, seed: int) -> dict[str, Any]:
        """One recipe at one budget."""
        with tempfile.TemporaryDirectory() as scratch:
            name = f"{recipe.replace(' ', '-')}-{budget}"
            out = self.keep / name if self.keep and seed == 0 else Path(scratch) / "artifact"
            facts = _alone(self.source, out, recipe, budget, seed)
            artifact = Artifact.open(out)
            metrics, nbytes = evaluate(Model.open(artifact), self.windows), artifact.nbytes
        return {
            "method": recipe, "budget": budget, "seed": seed, "bytes": nbytes, "bits": artifact.bits,
            "weight_bytes": round(artifact.bits * artifact.plan.numel / 8), "perplexity": metrics.perplexity,
            "tokens": metrics.tokens, "digest": artifact.digest, "threads": torch.get_num_threads(), **facts,
        }  # fmt: skip


def _alone(*arguments: Any) -> dict[str, Any]:
    """`_compress` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_compress, arguments)


def _compress(source: str, out: Path, recipe: str, budget: str, seed: int) -> dict[str, Any]:
    method, options = _read(recipe)
    named = {"allocate": options.pop("allocate")} if "allocate" in options else {}
    importlib.import_module("transformers")
    libraries = _peak()
    foreseen: dict[str, Any] = {}
    told = 0.0

    def before(job: Prepared) -> None:
        nonlocal start, told
        begun = time.perf_counter()
        foreseen.update(estimate(job, SAMPLES * LENGTH, 0, SAMPLES // BATCH).to_json())
        told = time.perf_counter()
        start += told - begun

    start = time.perf_counter()
    with _watched(out) as disk:
        result = tailorbird.compress(
            source, out, method=method, budget=budget, seed=seed, options=options, samples=SAMPLES, length=LENGTH,
            before=before, **named,
        )  # fmt: skip
    done = time.perf_counter()
    return {
        "seconds": done - start, "after_told": done - told, "stages": result.seconds, "peak_memory": _peak(),
        "libraries": libraries, "disk": max(disk), "foreseen": foreseen,
    }  # fmt: skip


def _peak() -> int:
    """Resident bytes at most so far: VmHWM, as ru_maxrss of a process begins with that of the one that started it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    return 1024 * (found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@contextmanager
def _watched(out: Path) -> Iterator[list[int]]:
    """Bytes of the artifact and of what it is made in, looked at several times a second."""
    seen, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            found = 0
            for folder in (out, partial_folder(out)):
                with suppress(FileNotFoundError):
                    found += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            seen.append(found)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _read(recipe: str) -> tuple[str, dict[str, Any]]:
    method, *options = recipe.split()
    return method, dict(option.split("=", 1) for option in options)


def _samples(recipe: str) -> bool:
    """The seed matters: it chooses the calibration windows."""
    return bool(find(_read(recipe)[0]).needs)


def _document(model: str, rows: list[dict[str, Any]], original: dict[str, Any]) -> dict[str, Any]:
    versions = {"tailorbird": tailorbird.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"cpu": processor(), "cores": torch.get_num_threads()}
    order = sorted(rows, key=lambda row: (-row["bytes"], row["method"], row["seed"]))
    return {"date": date.today().isoformat(), "model": model, "original": original, "rows": order,
            "versions": versions, "machine": machine}  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--recipes", nargs="+", default=[*sorted(methods()), *MORE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=16368)
    parser.add_argument("--keep", type=Path, help="folder for the artifacts of seed 0 (.bench/speed: for bench-speed)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
