"""``tailorbird pareto``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.compress import options_of
from tailorbird.cli.options import Data, Json, Length, Model, Recipe, Samples, Seed, Settings, Target
from tailorbird.cli.session import say, session
from tailorbird.errors import UsageError

# Factors are probed at this size: in the middle of where plans differ.
PROBED = "4bits"

if TYPE_CHECKING:
    from tailorbird.pipeline.pareto import Candidate


def command(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="FILE.svg and FILE.json are written.")],
    method: Annotated[str, typer.Option("--method", help="See `methods`.")] = "gptq",
    points: Annotated[int, typer.Option("--points", min=2, max=500, help="Sizes, smallest to largest.")] = 24,
    measure: Annotated[int, typer.Option("--measure", min=0, metavar="K", help="Measure K of them.")] = 0,
    plans: Annotated[Path | None, typer.Option("--plans", metavar="DIR", help="Write every plan there.")] = None,
    data: Data = None,
    samples: Samples = 64,
    length: Length = 512,
    seed: Seed = 0,
    settings: Settings = None,
    target: Target = None,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Draw what every size of a model is expected to lose, from the smallest to the largest, each with its plan."""
    from tempfile import TemporaryDirectory

    from tailorbird.files import make_folder, write_atomic, write_json
    from tailorbird.pipeline import prepare
    from tailorbird.pipeline.allocation import measured_table
    from tailorbird.pipeline.calibration import weighing
    from tailorbird.pipeline.pareto import drawn, pareto, probed
    from tailorbird.score.rounding import Rounding
    from tailorbird.tasks.language import Reference

    name = out.name.removesuffix(".svg").removesuffix(".json")
    picture, table = (out.with_name(f"{name}.{kind}") for kind in ("svg", "json"))
    for path in (picture, table, *([plans] if plans else [])):
        if path.exists():
            raise UsageError(f"{path} is there already", hint="name another, or remove it")
    job = prepare(model, method, PROBED, options_of(settings or []), target=target, allocate="measured")
    windows = weighing(job, data, samples, length, seed)
    say("estimating what every part loses")
    with TemporaryDirectory(prefix="tailorbird-") as scratch:
        losses = measured_table(job, windows, Path(scratch), seed)
    found = pareto(job, losses, points)
    if measure:
        say(f"measuring {measure} of {len(found)}")
        found = probed(Rounding(job.method, losses.worth), found, Reference.of(job.model, windows.probed), measure)
    document = {"model": model, "method": method, "points": [one.to_json() for one in found]}
    write_atomic(picture, drawn(found, model, method).encode())
    write_json(table, document)
    if plans is not None:
        make_folder(plans)
        for one in found:
            write_json(plans / f"{one.bits:.4f}bits-{one.nbytes}.json", one.plan.to_json())
    _show(found, document | {"picture": str(picture), "table": str(table)}, context)


def _show(found: list[Candidate], document: dict[str, Any], context: typer.Context) -> None:
    this = session(context)
    if this.json:
        this.emit(document)
        return
    from tailorbird.cli.tables import curve_table

    this.show(curve_table([one.to_json() for one in found]))
    this.line(f"written to {document['picture']} and {document['table']}")
