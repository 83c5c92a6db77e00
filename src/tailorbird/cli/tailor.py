"""``tailorbird tailor``: a generator for a trunk, a patch for a history, a patch put to use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import say, session

app = typer.Typer(
    help="One shared recommender, another head for every user, in one forward pass.", no_args_is_help=True
)

Tailored = Annotated[Path, typer.Argument(metavar="TAILORED", help="The folder of `tailorbird tailor train`.")]
History = Annotated[
    list[str], typer.Option("--history", metavar="ITEM", help="A number or (part of) a title; oldest first.")
]


def trained(
    context: typer.Context,
    trunk: Annotated[Path, typer.Argument(metavar="TRUNK", help="The folder of a trained sasrec, gru4rec or din.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the tailored model; it must not exist.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="epochs, samples, window, lag, rate, seed ..."),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="duet, diet, dieting or persona.")] = "duet",
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Train a detector too, that asks at this share of events; above 0, below 1."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector", metavar="FORM", help="intellectreq, 'intellectreq gain' or 'intellectreq published'."
        ),
    ] = "intellectreq",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Train what makes heads for a trunk, choose its epoch on validation, and test it once beside the trunk alone."""
    from tailorbird.cli.train import pairs
    from tailorbird.tailor.run import tailor_and_test
    from tailorbird.tailor.trunk import read
    from tailorbird.tasks.sequences import store

    this = session(context)
    _, about = read(trunk)
    this.interrupted = lambda: f"go on with --resume; the last finished epoch is kept beside {out}"
    data = store.load(about["data"]["name"])
    found = tailor_and_test(
        trunk, data, out, pairs(settings), _told, system=system, budget=budget, detector=detector, resume=resume
    )
    if this.json:
        this.emit(found)
        return
    this.line(
        f"{system} on {found['trunk']}, {found['data']['name']}, {found['data']['split']}; {found['test']['protocol']}"
    )
    for name in ("ndcg@10", "hr@10"):
        figure = found["test"][name]
        texts = (
            f"{w} {figure[w]['mean']:.4f} [{figure[w]['low']:.4f}, {figure[w]['high']:.4f}]" for w in ("trunk", system)
        )
        this.line(f"  {name:8} {', '.join(texts)}, p {figure['p']:.4f}")
    if budget is not None:
        this.line(_asking(found["detector"]))
    this.line(f"{out}: {found['payload']} bytes a patch")


def made(
    context: typer.Context,
    model: Tailored,
    history: History,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Of the patch.")],
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Make the patch of a history: what a cloud sends."""
    import numpy as np

    from tailorbird.files import write_atomic
    from tailorbird.tailor import folder
    from tailorbird.zoo.recommenders.recommend import items_named

    this = session(context)
    tailored = folder.read(model)
    items = items_named(history, tailored.about["titles"])
    message = tailored.message(np.array(items, np.int64))
    write_atomic(out, message)
    if this.json:
        this.emit({"history": items, "bytes": len(message), "manifest": tailored.manifest.digest})
    else:
        this.line(f"{out}: {len(message)} bytes for a history of {len(items)} items")


def applied(
    context: typer.Context,
    model: Tailored,
    patch: Annotated[Path, typer.Option("--patch", metavar="FILE", help="What `tailor make` wrote.")],
    history: History,
    count: Annotated[int, typer.Option("--count", help="How many items.")] = 10,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Put a patch to use as a device does, in numpy, and recommend."""
    from tailorbird.files import read_json
    from tailorbird.tailor.device import load, read_patch
    from tailorbird.tailor.unpack import CONFIG
    from tailorbird.zoo.recommenders.recommend import best, items_named

    this = session(context)
    device, titles = load(model), read_json(model / CONFIG, limit=2**28)["titles"]
    device.take(read_patch(patch, device.manifest))
    items = items_named(history, titles)
    found = best(device.scores(items), titles, items, count)
    if this.json:
        this.emit({"items": [dataclasses.asdict(one) for one in found]})
        return
    for one in found:
        this.line(f"{one.score:8.3f}  {one.title}")


def exported(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The folder of a trained or tailored sasrec or gru4rec.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Write trunk and head for onnxruntime and the browser; the head's tensors are inputs, so patches need no new
    session."""
    from tailorbird.tailor.export import described, export

    this = session(context)
    done = export(model, out)
    if this.json:
        this.emit(described(done) | {"out": str(out)})
        return
    this.line(f"{out}: a graph of {done.nbytes:,} bytes, with {', '.join(done.personal)} as inputs")
    this.line(f"{done.runtime}: scores differ by {done.error:.1g} of the largest at most from the device's runtime")
    this.line(f"in a browser: npm install --prefix {out}; python -m http.server --directory {out}")


def _asking(found: dict[str, Any]) -> str:
    on = f"on {found['devices']} devices that were held out"
    return f"detector ({found['form']}): AUC {found['auc']:.3f} {on}, asks at {found['rate']:.3f} of their events"


def _told(row: dict[str, Any]) -> None:
    mark = " *" if row["best"] else ""
    left = f", {row['left']:.0f} s left at most" if row["left"] else ""
    told = f"validation NDCG@10 {row['ndcg@10']:.4f}, {row['seconds']:.0f} s{left}"
    say(f"{row['stage']}, epoch {row['epoch']:3}: {told}{mark}")
