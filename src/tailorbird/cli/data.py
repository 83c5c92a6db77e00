"""``tailorbird data``: the data sets of sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import say, session

app = typer.Typer(help="Data sets of events by user: what there is, and fetching it.", no_args_is_help=True)
TIED = 0.01  # share of events without an order of their own from which a warning is due


def warn_of_ties(tied: float) -> None:
    """Say it where the order of many events means nothing."""
    if tied > TIED:
        say(f"warning: {tied:.0%} of the events have the time of the one before them: their order means nothing")


def listed(context: typer.Context, recipe: Recipe = None, json: Json = False) -> None:
    """List the data sets by name, with their terms."""
    from tailorbird.tasks.sequences.sources import SOURCES

    this = session(context)
    found = [{"name": n, "title": s.title, "licence": s.licence, "site": s.site} for n, s in SOURCES.items()]
    if this.json:
        this.emit(found)
        return
    for row in found:
        this.line(f"{row['name']:16} {row['title']}. {row['licence']}")


def get(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="See `tailorbird data list`.")],
    path: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="A local copy: a file or a folder.")
    ] = None,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Fetch a data set, check what it holds and keep it in the cache."""
    from tailorbird.tasks.sequences import store

    this = session(context)
    data = store.get(name, path)
    facts = {
        "name": data.name, "users": data.users, "items": data.count, "events": len(data.items),
        "times": data.times is not None, "tied": data.tied, "digest": data.digest, "licence": data.licence,
    }  # fmt: skip
    warn_of_ties(data.tied)
    if this.json:
        this.emit(facts)
        return
    this.line(f"{data.name}: {data.users:,} users, {data.count:,} items, {len(data.items):,} events")
    this.line(f"digest {data.digest[:16]}; {data.licence}")
