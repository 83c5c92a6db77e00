"""The work behind ``compress`` and ``demo``: compress, evaluate, sample, and write the report and the recipe."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.cli.preflight import preflight
from tailorbird.cli.session import Session, say

if TYPE_CHECKING:
    from tailorbird.checkpoint import Checkpoint
    from tailorbird.pipeline import Prepared
    from tailorbird.pipeline.compress import Result
    from tailorbird.pipeline.estimate import Estimate
    from tailorbird.plan import Plan
    from tailorbird.runtime.decoder import Cached


@dataclass
class Job:
    """What ``compress`` was asked to do."""

    model: str
    out: Path
    method: str
    budget: list[str] | None = None
    data: str | None = None
    samples: int = 64
    length: int = 512
    seed: int = 0
    options: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    target: str | None = None
    allocate: str | None = None
    refine: int = 1
    context: int = 0
    cache: Cached = "bf16"
    profile: str | None = None
    resume: bool = False
    evaluate: bool = True
    eval_tokens: int = 4092


def perform(job: Job, this: Session) -> dict[str, Any]:
    """Do a job from the model to the report; returns what ``compress --json`` prints, with the report's data."""
    from tailorbird.checkpoint import open_checkpoint
    from tailorbird.cli.progress import drawn
    from tailorbird.pipeline import compress
    from tailorbird.pipeline.reporting import report_of, write_recipe
    from tailorbird.report import write_report

    this.interrupted = lambda: resume_note(job.out, this.args)
    notes: list[str] = []

    def before(prepared: Prepared) -> None:
        notes.extend(prepared.notes)
        if not job.resume:
            preflight(need_of(prepared, job), job.out)

    with drawn() as bar:
        result = compress(
            job.model,
            job.out,
            method=job.method,
            budget=job.budget,
            data=job.data,
            samples=job.samples,
            length=job.length,
            seed=job.seed,
            options=job.options,
            plan=job.plan,
            target=job.target,
            allocate=job.allocate,
            refine=job.refine,
            context=job.context,
            cache=job.cache,
            profile=job.profile,
            resume=job.resume,
            progress=bar,
            before=before,
        )
    write_recipe(job.out, recipe_of(job, result), job.plan)
    this.interrupted = lambda: f"the artifact {job.out} is finished and verified; only its report is missing"
    source = open_checkpoint(job.model)
    quality, samples = judged(job, result, source, notes) if job.evaluate else (None, [])
    report = report_of(
        result,
        source,
        budget=job.budget or [],
        quality=quality,
        samples=samples,
        command=shlex.join(["tailorbird", *this.args]),
    )
    path = write_report(job.out, report)
    for note in notes:
        say(f"note: {note}")
    return report | {"report": str(path), "notes": notes}


def need_of(prepared: Prepared, job: Job) -> Estimate:
    """Time, memory and disk of a job, with the evaluation that comes after it."""
    from tailorbird.pipeline.calibration import BATCH
    from tailorbird.pipeline.estimate import estimate

    evaluated = job.eval_tokens if job.evaluate else 0
    return estimate(prepared, job.samples * job.length, evaluated, -(-job.samples // BATCH), 1 + job.refine)


def judged(job: Job, result: Result, source: Checkpoint, notes: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """Quality of the artifact and texts of both models; what can't be had is noted and left out."""
    from tailorbird.cli.progress import evaluation
    from tailorbird.pipeline.quality import PROMPT, attempt, evaluate, sample

    clock = result.seconds
    start = time.perf_counter()
    with evaluation("evaluating the original and the artifact") as told:
        quality = attempt(
            lambda: evaluate(result.artifact, source, tokens=job.eval_tokens or None, progress=told), notes
        )
    clock["evaluate"] = time.perf_counter() - start
    if quality is None:
        return None, []
    say("writing a sample by each")
    start = time.perf_counter()
    both = {"original": source, "compressed": result.artifact}
    texts = {name: attempt(lambda one=one: sample(one), notes) for name, one in both.items()}  # type: ignore[misc]
    clock["samples"] = time.perf_counter() - start
    return quality, [{"prompt": PROMPT} | texts]


def recipe_of(job: Job, result: Result) -> dict[str, Any]:
    """What makes the same artifact again."""
    return {
        "model": anywhere(job.model),
        "method": result.artifact.plan.method,
        "budget": None if job.budget is None else [_anywhere_too(text) for text in job.budget],
        "data": None if job.data is None else anywhere(job.data),
        "samples": job.samples,
        "length": job.length,
        "seed": job.seed,
        "target": job.target,
        "allocate": job.allocate,
        "refine": job.refine,
        "context": job.context,
        "cache": job.cache,
        "profile": None if job.profile is None else anywhere(job.profile),
        "set": dict(result.artifact.plan.options),
    }


def _anywhere_too(budget: str) -> str:
    """A budget whose profile, if it names one, is found from every folder."""
    amount, sign, profile = budget.partition("@")
    return amount + sign + (anywhere(profile.strip()) if sign else "")


def anywhere(name: str) -> str:
    """A name that means the same from every folder: existing paths in full, others (Hub ids) as they are."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def resume_note(out: Path, args: list[str]) -> str:
    """How to go on after an interruption."""
    partial = out.with_name(f"{out.name}.partial")
    if not partial.exists() and not out.exists():
        return "nothing was written yet"
    words = args if "--resume" in args or args[:1] == ["demo"] else [*args, "--resume"]
    where = partial if partial.exists() else out
    return f"what is finished is kept in {where}; go on with:\n  {shlex.join(['tailorbird', *words])}"


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that ``--json`` prints."""
    artifact = report["artifact"]
    keys = ("digest", "verified", "model", "method", "budget", "quality", "samples", "timings", "report", "notes")
    sizes = {"bytes": artifact["bytes"], "bits": artifact["bits"], "claimed": claimed(report)}
    return sizes | {key: report.get(key) for key in (*keys, "milliseconds", "slower")}


def claimed(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bits a weight as the method's paper counts them beside those that are stored, over the parts that it counts
    otherwise; None where there are none."""
    parts = [part for part in report.get("parts", []) if part.get("claimed_bits") is not None]
    if not parts:
        return None
    weights = [part["shape"][0] * part["shape"][1] for part in parts]
    paper = sum(part["claimed_bits"] * n for part, n in zip(parts, weights, strict=True)) / sum(weights)
    return {"parts": len(parts), "paper_bits": paper, "bits": 8 * sum(part["bytes"] for part in parts) / sum(weights)}
