"""``tailorbird recommend``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import session


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a trained recommender.")],
    history: Annotated[
        list[str], typer.Option("--history", metavar="ITEM", help="A number or (part of) a title; oldest first.")
    ],
    count: Annotated[int, typer.Option("--count", help="How many items.")] = 10,
    seen: Annotated[bool, typer.Option("--seen", help="Items of the history too.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """What comes next after a history of items; nothing is trained."""
    from tailorbird.tailor.trunk import read
    from tailorbird.zoo.recommenders.recommend import items_named, recommend

    this = session(context)
    recommender, about = read(model)
    titles = about["titles"]
    items = items_named(history, titles)
    found = recommend(recommender, titles, items, count, seen=seen)
    if this.json:
        this.emit({"history": items, "items": [dataclasses.asdict(one) for one in found]})
        return
    for item in items:
        this.line(f"          {titles[item - 1] if titles else f'item {item}'}")
    for one in found:
        this.line(f"{one.score:8.3f}  {one.title}")
