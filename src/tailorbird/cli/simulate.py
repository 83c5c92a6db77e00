"""``tailorbird simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import Session, session
from tailorbird.errors import UsageError


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of `tailor train` or `train`.")],
    devices: Annotated[int, typer.Option("--devices", help="How many users; 0 for all.")] = 0,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Requests by event, 0 to 1; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder for report.html; makes the simulation resumable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted simulation.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the curves.")] = None,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Replay the test events of a fleet of devices under every policy: quality against requests and bytes."""
    from tailorbird.cli.progress import stages
    from tailorbird.files import write_atomic
    from tailorbird.tailor import folder
    from tailorbird.tailor.run import split_of
    from tailorbird.tailor.simulate import BUDGETS, simulate, simulate_to
    from tailorbird.tasks.sequences import store

    this = session(context)
    if out is None and resume:
        raise UsageError("--resume without --out", hint="name the folder that the simulation was to write")
    this.interrupted = lambda: (
        f"go on with --resume; what is finished is kept beside {out}" if out else "nothing is kept without --out"
    )
    tailored = folder.read(model)
    split = split_of(tailored.about, store.load(tailored.about["data"]["name"]))
    budgets = tuple(budget or BUDGETS)
    with stages() as told:
        if out is None:
            found = simulate(tailored, split, budgets=budgets, devices=devices, told=told)
        else:
            found = simulate_to(out, tailored, split, budgets=budgets, devices=devices, resume=resume, told=told)
    if svg is not None:
        write_atomic(svg, drawn(found).encode())
    if this.json:
        this.emit(found)
    else:
        _show(this, found)
        if out is not None:
            this.line(f"report: {out / 'report.html'}")


def _show(this: Session, found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("policy", "budget", "requests/event", "kB down", "kB up", "NDCG@10", "HR@10")
    for row in [{"policy": "trunk alone", **found["static"]}, *found["rows"]]:
        costs = (row.get("budget"), row.get("rate"), row.get("bytes_down", 0) / 1000, row.get("bytes_up", 0) / 1000)
        figures = (f"{row[n]['mean']:.4f} [{row[n]['low']:.4f}, {row[n]['high']:.4f}]" for n in ("ndcg@10", "hr@10"))
        table.add_row(row["policy"], *("" if cost is None else f"{cost:.3g}" for cost in costs), *figures)
    this.show(table)
    this.line(f"{found['devices']} devices, {found['events']} events each, {found['payload']:.0f} bytes a patch")
    for row in found["against_random"]:
        difference = f"{row['difference']:+.4f}, p {row['p']:.3f}"
        rates = f"{row['rate']:.3f} requests an event (budget {row['budget']:g})"
        this.line(f"{row['policy']} against random at {rates}: NDCG@10 {difference}")


def drawn(found: dict[str, Any]) -> str:
    """The curves of `simulate` as a picture."""
    from tailorbird.report import scatter

    rows = [
        {"x": row["requests"], "y": row["ndcg@10"]["mean"], "label": f"{row['budget']:g}", "series": row["policy"]}
        for row in found["rows"]
    ]
    rows.append({"x": 0.0, "y": found["static"]["ndcg@10"]["mean"], "label": "no head", "series": "trunk alone"})
    return scatter(
        rows, x="x", y="y", label="label", series="series", title="Quality against requests",
        x_title="requests a device after the first", y_title="NDCG@10",
    )  # fmt: skip
