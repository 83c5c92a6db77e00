"""``tailorbird train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.data import warn_of_ties
from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.ranked import show_figures
from tailorbird.cli.session import Session, say, session
from tailorbird.errors import UsageError


def command(
    context: typer.Context,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="sasrec, gru4rec, bert4rec, din, lightgcn, hytrec or tiger.")
    ],
    data: Annotated[str, typer.Option("--data", help="See `tailorbird data list`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the trained model; it must not exist.")],
    split: Annotated[
        str, typer.Option("--split", help="What is held back: leave-one-out, time, or last-10 (streams of ten events).")
    ] = "leave-one-out",
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="KEY=VALUE", help="length, width, layers, heads, dropout ...")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="epochs, batch, rate, loss, patience, seed ..."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Train a recommender, choose its best epoch on validation, and rank the whole catalogue on the test."""
    from tailorbird.tasks.sequences import store
    from tailorbird.zoo.recommenders.run import train_and_test

    this = session(context)
    this.interrupted = lambda: f"go on with --resume; the last finished epoch is kept beside {out}"
    options = {"shape": pairs(shape), "settings": pairs(settings)}
    events = store.load(data)
    warn_of_ties(events.tied)
    found = train_and_test(kind, events, split, out, resume=resume, told=_told, **options)
    if this.json:
        this.emit(found)
    else:
        _show(this, found, out)


def _told(row: dict[str, Any]) -> None:
    mark = " *" if row["best"] else ""
    found = f"loss {row['loss']:.4f}, validation NDCG@10 {row['ndcg@10']:.4f}"
    say(f"epoch {row['epoch']:3}: {found}, {row['seconds']:.0f} s{mark}")


def _show(this: Session, found: dict[str, Any], out: Path) -> None:
    this.line(f"{found['model']} on {found['data']['name']}, {found['data']['split']}; {found['test']['protocol']}")
    show_figures(this, found["test"]["figures"])
    this.line(f"{out}: {found['seconds']:.0f} s, {found['samples_per_s']:.0f} predictions a second")
    this.line(f"report: {out / 'report.html'}")


def pairs(texts: list[str] | None) -> dict[str, str]:
    """Texts such as ``epochs=20`` as a table.

    Raises:
        UsageError: one has no equals sign.
    """
    odd = [text for text in texts or [] if "=" not in text]
    if odd:
        raise UsageError(f"{odd[0]!r} is no KEY=VALUE", hint="such as --set epochs=20")
    return dict(text.split("=", 1) for text in texts or [])
