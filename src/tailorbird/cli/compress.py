"""``tailorbird compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.job import Job, need_of, perform, summary
from tailorbird.cli.options import Data, Json, Length, Model, Recipe, Samples, Seed, Settings, Target
from tailorbird.cli.preflight import told
from tailorbird.cli.session import Session, say, session
from tailorbird.cli.trunk import compressed
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.pipeline import Prepared
    from tailorbird.pipeline.estimate import Estimate
    from tailorbird.plan import Plan
    from tailorbird.runtime.decoder import Cached

DEFAULT_METHOD = "gptq"
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", show_default="4.5bits", help="3bits, 120MB, 8ms/token@FILE; may be repeated: all hold."),
]
Allocate = Annotated[
    str | None,
    typer.Option(
        "--allocate",
        metavar="NAME",
        show_default="uniform; measured with milliseconds",
        help="Share out bits: uniform, measured, ohq.",
    ),
]
Context = Annotated[
    int, typer.Option("--context", min=0, metavar="N", help="Count keys and values of N tokens into the bytes.")
]
Costs = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="Costs for ohq to weigh, from `profile`.")
]


def command(
    ctx: typer.Context,
    model: Model,
    method: Annotated[str | None, typer.Option("--method", show_default="gptq", help="See `methods`.")] = None,
    budget: Budgets = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the artifact goes.")] = None,
    data: Data = None,
    samples: Samples = 64,
    length: Length = 512,
    seed: Seed = 0,
    settings: Settings = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="An edited plan, from --dry-run --json.")
    ] = None,
    target: Target = None,
    allocate: Allocate = None,
    refine: Annotated[
        int, typer.Option("--refine", min=0, metavar="N", help="Share out anew after the result was measured, at most.")
    ] = 1,
    context: Context = 0,
    profile: Costs = None,
    cache: Annotated[str, typer.Option("--cache", help="How these are kept: bf16 or int8.")] = "bf16",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished job.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, its bytes, time, memory and disk; write nothing.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Measure original and artifact afterwards.")
    ] = True,
    eval_tokens: Annotated[
        int, typer.Option("--eval-tokens", min=0, help="Predictions to score; 0 for the whole text.")
    ] = 4092,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Compress a model to a budget into a verified artifact, with a report of what it cost."""
    this = session(ctx)
    given = None if plan is None else plan_of(plan, method)
    job = Job(model, out or Path(), method or DEFAULT_METHOD, budget or None, data, samples, length, seed)
    job.options, job.plan, job.resume = options_of(settings or []), given, resume
    job.target, job.evaluate, job.eval_tokens = target, evaluate, eval_tokens
    job.allocate, job.refine, job.context, job.cache = allocate, refine, context, _cached(cache)
    job.profile = None if profile is None else str(profile)
    if dry_run:
        _show_plan(job, this)
        return
    if out is None:
        raise UsageError("compress needs --out", hint="name the folder of the artifact, or use --dry-run")
    if compressed(job, this):
        return
    report = perform(job, this)
    if json or this.json:
        this.emit({"out": str(out)} | summary(report))
        return
    from tailorbird.cli.tables import outcome_table, samples_text

    this.show(outcome_table(report))
    this.line(samples_text(report))
    this.line(f"artifact: {out} (verified, digest {report['digest']})\nreport:   {report['report']}")


def options_of(settings: list[str]) -> dict[str, str]:
    """``key=value`` texts as a mapping; the last of a key holds."""
    found = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {text!r} is not KEY=VALUE", hint="for example --set group_size=32")
        found[key.strip().replace("-", "_")] = value.strip()
    return found


def _cached(name: str) -> Cached:
    if name not in ("bf16", "int8"):
        raise UsageError(f"--cache {name!r} is neither bf16 nor int8", hint="see `tailorbird compress --help`")
    return "int8" if name == "int8" else "bf16"


def plan_of(path: Path, method: str | None) -> Plan:
    """A plan from a file: the plan itself, or all that ``--dry-run --json`` printed."""
    from tailorbird.files import read_json
    from tailorbird.plan import Plan

    content: Any = read_json(path, error=UsageError)
    found = Plan.from_json(content["plan"] if isinstance(content, dict) and "plan" in content else content)
    if method is not None and method != found.method:
        raise UsageError(f"{path} is a plan for {found.method!r}, not {method!r}", hint="leave --method out")
    return found


def _show_plan(job: Job, this: Session) -> None:
    from tailorbird.cli.tables import plan_table
    from tailorbird.pipeline import prepare

    prepared = prepare(
        job.model, job.method, job.budget, job.options, job.plan, job.target, job.allocate, job.context, job.cache,
        job.profile,
    )  # fmt: skip
    need = need_of(prepared, job)
    if prepared.undecided:
        prepared = _decided(prepared, job)
    found = described(prepared, job, need)
    if this.json:
        this.emit(found)
        return
    parts = [
        entry | {"bytes": prepared.plan.part_bytes(part)}
        for entry, part in zip(found["plan"]["parts"], prepared.plan.parts, strict=True)
    ]
    this.show(plan_table(parts))
    this.line(
        f"at most {found['bytes']:,} bytes, {found['bits']:.4f} bits a weight; "
        f"the smallest with these options: {found['smallest_bytes']:,} bytes, {found['smallest_bits']:.4f} bits"
    )
    if prepared.cached:
        kept = f"keys and values of {prepared.context:,} tokens"
        this.line(f"beside them {prepared.cached:,} bytes of {kept} as {prepared.cache}")
    this.line(told(need))
    for note in found["notes"]:
        say(f"note: {note}")


def _decided(prepared: Prepared, job: Job) -> Prepared:
    """The plan that `compress` would begin with; the weights are read for it."""
    from tempfile import TemporaryDirectory

    from tailorbird.pipeline.allocation import measured_table, solved
    from tailorbird.pipeline.calibration import weighing

    with TemporaryDirectory(prefix="tailorbird-") as scratch:
        windows = weighing(prepared, job.data, job.samples, job.length, job.seed)
        return solved(prepared, measured_table(prepared, windows, Path(scratch), job.seed))


def described(prepared: Prepared, job: Job, need: Estimate) -> dict[str, Any]:
    """What ``--dry-run --json`` prints."""
    from tailorbird.pipeline.estimate import smallest

    least = smallest(prepared)
    return {
        "model": job.model,
        "method": prepared.method.name,
        "budget": job.budget,
        "weights": prepared.plan.numel,
        "bytes": prepared.nbytes,
        "bits": prepared.bits,
        "cache_bytes": prepared.cached,
        "smallest_bytes": least.nbytes,
        "smallest_bits": least.bits,
        "estimate": need.to_json(),
        "plan": prepared.plan.to_json(),
        "notes": prepared.notes,
    }
