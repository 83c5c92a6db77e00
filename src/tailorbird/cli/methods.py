"""``tailorbird methods``."""

from __future__ import annotations

import dataclasses

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import session


def command(context: typer.Context, recipe: Recipe = None, json: Json = False) -> None:
    """List the registered methods with paper, status and options."""
    from tailorbird.methods import methods

    this = session(context)
    found = [
        {
            "name": name,
            "title": kind.title,
            "paper": kind.paper,
            "status": kind.status,
            "needs": sorted(kind.needs),
            "options": {field.name: field.default for field in dataclasses.fields(kind)},
        }
        for name, kind in methods().items()
    ]
    if this.json:
        this.emit(found)
        return
    from tailorbird.cli.tables import methods_table

    this.show(methods_table(found))
