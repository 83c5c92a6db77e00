"""Budgets kept and used: random byte budgets with what the solver, uniform bits and the best single setting make of
them, and latency budgets with what decoding then takes.

    python benchmarks/budgets.py [--count 10] [--tokens 4092] [--latency 5 --profile FILE]

Rows go to benchmarks/results/budgets.json as they are finished, from there into docs/budget.md; a second call goes on.
What plans lose is the divergence from the original, KL in nats a token: near the original, perplexity is as often
better by chance. Losses are estimated once for all budgets; factors are probed for each, as `compress --allocate
measured` does. Latencies mean something on an idle machine only: beside what the clock says stands what a token takes
at the pace of the profile (docs/budget.md).
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tailorbird
from tailorbird import data
from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import BudgetError
from tailorbird.files import read_json, write_atomic, write_json
from tailorbird.pipeline import Prepared, prepare
from tailorbird.pipeline.allocation import measured_table, solved
from tailorbird.pipeline.calibration import weighing
from tailorbird.pipeline.estimate import smallest
from tailorbird.pipeline.latency import hollow
from tailorbird.plan import Plan
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.runtime.load import load
from tailorbird.runtime.pace import TOKENS, Pace, Timed, told
from tailorbird.runtime.profile import Profile, processor
from tailorbird.runtime.speed import once
from tailorbird.score.patched import patched
from tailorbird.score.rounding import rounded
from tailorbird.tasks.language import Reference, evaluate
from tailorbird.tasks.text import Tokenizer
from tailorbird.tasks.windows import evaluation_windows

RESULTS = Path(__file__).parent / "results" / "budgets.json"
WORK = Path(__file__).parent.parent / ".bench" / "budgets"
PAGE = Path(__file__).parent.parent / "docs" / "budget.md"
BEGIN, END = "<!-- written by benchmarks/budgets.py: begin -->", "<!-- written by benchmarks/budgets.py: end -->"
MODEL = "demo:gemma-270m"
METHOD = "rtn"
SHARE = 0.6
REPEATS = 5  # of the measurement of what decoding takes
GROUPS = (32, 64, 128)
Row = dict[str, Any]


def main() -> None:
    """Run what is missing."""
    options = _options()
    rows = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    bench = Bench(options.tokens)
    wanted: list[tuple[str, Any]] = [("bytes", limit) for limit in bench.limits(options.count)]
    wanted = wanted if options.only is None else [wanted[index] for index in options.only]
    wanted += [("ms", round(step, 3)) for step in (bench.latencies(options) if options.latency else [])]
    for kind, limit in wanted:
        if any(row["kind"] == kind and row["asked"] == limit for row in rows):
            continue
        print(f"{kind} {limit}", file=sys.stderr, flush=True)
        rows.append(bench.sized(limit) if kind == "bytes" else bench.timed(limit, options.profile))
        write_json(RESULTS, _document(rows, bench))
    write_page(rows)


class Bench:
    """The model, the text, and the losses of its parts."""

    def __init__(self, tokens: int) -> None:
        checkpoint = open_checkpoint(MODEL)
        self.model = Model.open(checkpoint)
        self.original = sum(path.stat().st_size for path in checkpoint.folder.iterdir() if path.is_file())
        text = data.read_text(data.WIKITEXT2_TEST)
        self.windows = evaluation_windows(Tokenizer.of(checkpoint), text, tokens)
        self.reference = Reference.of(self.model, self.windows)
        self.predictions = self.windows[:, 1:].numel()

    def limits(self, count: int) -> list[int]:
        """Random byte budgets between the smallest possible and a share of the original."""
        least = smallest(prepare(MODEL, METHOD, "8bits")).nbytes
        draw = random.Random(0)
        return [draw.randint(least, int(SHARE * self.original)) for _ in range(count)]

    def sized(self, limit: int) -> Row:
        """One byte budget."""
        budget, start = f"{limit}B", time.perf_counter()
        job = prepare(MODEL, METHOD, budget, allocate="measured")
        with tempfile.TemporaryDirectory() as scratch:
            plan = self._solved(job, Path(scratch)).plan
            artifact = tailorbird.compress(MODEL, Path(scratch) / "artifact", plan=plan, budget=budget).artifact
            seconds = time.perf_counter() - start
            nbytes = artifact.nbytes
            solver = self._quality(Model.open(Artifact.open(artifact.folder)))
        single, name = self._single(limit)
        uniform = self._rounded(prepare(MODEL, METHOD, budget).plan)
        return {
            "kind": "bytes", "asked": limit, "bytes": nbytes, "used": nbytes / limit, "seconds": seconds,
            "solver": solver, "uniform": uniform, "single": single, "single_name": name, "tokens": self.predictions,
        }  # fmt: skip

    def timed(self, asked: float, profile: str) -> Row:
        """One latency budget, as a user gives it; what decoding takes afterwards."""
        row: Row = {"kind": "ms", "asked": asked, "milliseconds": None, "refused": ""}
        with tempfile.TemporaryDirectory() as scratch:
            try:
                budget = f"{asked}ms/token@{profile}"
                done = tailorbird.compress(MODEL, Path(scratch) / "artifact", method=METHOD, budget=budget)
            except BudgetError as error:
                return row | {"refused": error.message}
            model, pace = load(done.artifact.folder), Pace()
            runs = [_told(model, pace, profile) for _ in range(REPEATS)]
            took, slower = median(run.milliseconds for run in runs), [run.slower or 1.0 for run in runs]
            clock = sorted(run.milliseconds * now for run, now in zip(runs, slower, strict=True))
            said = {"said": done.milliseconds, "said_slower": done.slower, "bytes": done.artifact.nbytes}
            found = {"milliseconds": took, "of_asked": took / asked, "clock": clock, "slower": median(slower)}
            return row | said | found

    def latencies(self, options: argparse.Namespace) -> list[float]:
        """Budgets between what one bit and what eight bits everywhere take; kept, so that a run goes on."""
        ends = WORK / "ends.json"
        if not ends.exists():
            job = prepare(MODEL, METHOD, "8bits")
            plans = [job.planned({p.name: job.spec(p, bits) for p in job.model.parts}) for bits in (1, 8)]
            WORK.mkdir(parents=True, exist_ok=True)
            write_json(ends, [_told(hollow(plan), Pace(), options.profile).milliseconds for plan in plans])
        low, high = read_json(ends)
        draw = random.Random(1)
        return [draw.uniform(1.1 * low, 0.95 * high) for _ in range(options.latency)]

    def _solved(self, job: Prepared, scratch: Path) -> Prepared:
        """As `compress --allocate measured` plans it; the estimate does not depend on the budget, and is kept."""
        scratch.mkdir(parents=True, exist_ok=True)
        WORK.mkdir(parents=True, exist_ok=True)
        estimate = WORK / "measured.json"
        if estimate.exists():
            shutil.copy(estimate, scratch / "measured.json")
        table = measured_table(job, weighing(job, None, 64, 512, 0), scratch)
        shutil.copy(scratch / "measured.json", estimate)
        return solved(job, table)

    def _single(self, limit: int) -> tuple[Row | None, str]:
        """The best of the largest single settings of bits and group size that fit."""
        found: list[tuple[int, str, Plan]] = []
        for size in GROUPS:
            job = prepare(MODEL, METHOD, "8bits", {"group_size": size})
            for bits in range(1, job.levels + 1):
                planned = job.planned({part.name: job.spec(part, bits) for part in job.model.parts})
                if planned.nbytes <= limit:
                    found.append((planned.nbytes, f"{bits} bits, groups of {size}", planned.plan))
        largest = sorted(found, key=lambda one: -one[0])[:2]
        scored = [(self._rounded(plan), name) for _, name, plan in largest]
        return min(scored, key=lambda one: float(one[0]["kl"])) if scored else (None, "none fits")

    def _rounded(self, plan: Plan) -> Row:
        """Of the model rounded as planned: what the artifact would have, without writing it."""
        method = replace(prepare(MODEL, METHOD, "8bits", plan.options).method)

        def rows(part: Any) -> Any:
            return lambda a, b: rounded(method, self.model.read_rows(part, a, b).float(), plan.specs[part.name])

        return self._quality(patched(self.model, {part.name: rows(part) for part in self.model.parts}))

    def _quality(self, model: Model) -> Row:
        found = evaluate(model, self.windows, self.reference)
        return {"kl": found.kl, "perplexity": found.perplexity}


def _told(model: LanguageModel, pace: Pace, profile: str) -> Timed:
    """What a token takes, at the pace of the profile."""
    return told(lambda: once(model, TOKENS), pace, Profile.read(Path(profile)).pace)


def write_page(rows: list[Row]) -> None:
    """Put the tables between the two marks of the page."""
    sized = sorted((row for row in rows if row["kind"] == "bytes"), key=lambda row: int(row["asked"]))
    timed = sorted((row for row in rows if row["kind"] == "ms"), key=lambda row: float(row["asked"]))
    lines = [
        "| bytes asked | used | KL, `measured` | KL, `uniform` | KL, best single setting | perplexity, `measured` |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sized:
        single = f"{_kl(row['single'])} ({row['single_name']})" if row["single"] else row["single_name"]
        lines.append(
            f"| {row['asked']:,} | {row['used']:.2%} | {_kl(row['solver'])} | {_kl(row['uniform'])} | {single} "
            f"| {_number(row['solver']['perplexity'])} |"
        )
    if timed:
        lines += [
            "",
            "| ms a token asked | said by `compress` | afterwards | of what was asked | by the clock, least to most "
            "| slower than the profile, times | bytes |",
            "|--:|--:|--:|--:|--:|--:|--:|",
        ]
    lines += [_latency(row) for row in timed]
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = "\n".join(lines)
    write_atomic(PAGE, f"{before}{BEGIN}\n{table}\n{END}{after}".encode())


def _latency(row: Row) -> str:
    if row["refused"]:
        return f"| {row['asked']:.3f} | refused: {row['refused']} | | | | | |"
    cells = (*(f"{row[key]:.3f}" for key in ("asked", "said", "milliseconds")), f"{row['of_asked']:.1%}")
    clock = f"{row['clock'][0]:.2f} to {row['clock'][-1]:.2f}"
    return f"| {' | '.join(cells)} | {clock} | {row['slower']:.2f} | {row['bytes']:,} |"


def _kl(found: Row) -> str:
    return _number(found["kl"])


def _number(value: float) -> str:
    if value < 1:
        return f"{value:.5f}" if value < 0.01 else f"{value:.4f}"
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def _document(rows: list[Row], bench: Bench) -> Row:
    machine = {"cpu": processor(), "cores": torch.get_num_threads()}
    return {"command": " ".join(sys.argv), "date": date.today().isoformat(), "model": MODEL, "method": METHOD,
            "original_bytes": bench.original, "rows": rows, "machine": machine}  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=4092)
    parser.add_argument("--only", type=int, nargs="*", help="which of the byte budgets, counted from 0; bare: none")
    parser.add_argument("--latency", type=int, default=0)
    parser.add_argument("--profile", default="profile.json")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except BudgetError as error:
        sys.exit(f"{error.message}\n{error.hint}")
