"""Perplexity at equal real bytes: our methods at several budgets, beside other libraries.

    make bench-quality                                        # everything; resumes where it stopped
    python benchmarks/quality.py --budgets 3bits --methods gptq --seeds 0

Rows go to benchmarks/results/quality.json as they are finished; the table in docs/benchmarks.md and the picture
docs/perplexity.svg are written from that file and from benchmarks/results/peers.json (see benchmarks/peers/README.md).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import tailorbird
from tailorbird import data
from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.files import read_json, write_json
from tailorbird.runtime.profile import processor
from tailorbird.tasks.language import evaluate
from tailorbird.tasks.text import Tokenizer
from tailorbird.tasks.windows import evaluation_windows

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "quality.json"
MODEL = "demo:gemma-270m"
NEEDS_DATA = ("gptq", "slim-llm")


def main() -> None:
    """Run what is missing, then write the page."""
    options = _options()
    rows = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    every = [(m, b, s) for s in options.seeds for b in options.budgets for m in options.methods]
    wanted = [(method, budget, seed) for method, budget, seed in every if seed == 0 or method in NEEDS_DATA]
    missing = [key for key in wanted if key not in {(r["method"], r["budget"], r["seed"]) for r in rows}]
    if missing:
        bench = Bench(options.tokens)
        for number, (method, budget, seed) in enumerate(missing, 1):
            print(f"[{number}/{len(missing)}] {method} {budget} seed {seed}", file=sys.stderr, flush=True)
            rows.append(bench.row(method, budget, seed))
            write_json(RESULTS, _document(rows, bench.original))
    from page import write_page  # beside this file

    write_page(ROOT)


class Bench:
    """The evaluation text and the original model, measured once."""

    def __init__(self, tokens: int) -> None:
        self.model = Model.open(open_checkpoint(MODEL))
        tokenizer = Tokenizer.of(open_checkpoint(MODEL))
        self.windows = evaluation_windows(tokenizer, data.read_text(data.WIKITEXT2_TEST), tokens)
        metrics = evaluate(self.model, self.windows)
        self.original = {"perplexity": metrics.perplexity, "tokens": metrics.tokens, "weights": self.model.numel}

    def row(self, method: str, budget: str, seed: int) -> dict[str, Any]:
        """One method at one budget."""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "artifact"
            start = time.perf_counter()
            result = tailorbird.compress(MODEL, out, method=method, budget=budget, seed=seed)
            seconds = time.perf_counter() - start
            metrics = evaluate(Model.open(Artifact.open(out)), self.windows)
            artifact, nbytes = result.artifact, result.artifact.nbytes
        return {
            "method": method, "budget": budget, "seed": seed, "bytes": nbytes, "bits": artifact.bits,
            "weight_bytes": round(artifact.bits * artifact.plan.numel / 8), "perplexity": metrics.perplexity,
            "tokens": metrics.tokens,
            "seconds": seconds, "stages": result.seconds, "digest": artifact.digest,
        }  # fmt: skip


def _document(rows: list[dict[str, Any]], original: dict[str, Any]) -> dict[str, Any]:
    versions = {"tailorbird": tailorbird.__version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"cpu": processor(), "cores": torch.get_num_threads()}
    order = sorted(rows, key=lambda row: (-row["bytes"], row["method"], row["seed"]))
    return {"date": date.today().isoformat(), "model": MODEL, "original": original, "rows": order,
            "versions": versions, "machine": machine}  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--budgets", nargs="+", default=["4.5bits", "4bits", "3bits", "2bits"])
    parser.add_argument("--methods", nargs="+", default=["rtn", "gptq", "slim-llm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=16368)
    return parser.parse_args()


if __name__ == "__main__":
    main()
