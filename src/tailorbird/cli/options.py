"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli import recipe
from tailorbird.cli.session import session


def _json(context: typer.Context, value: bool) -> bool:
    """A recipe may ask for JSON too."""
    if not context.resilient_parsing:
        session(context).json |= value
    return value


Json = Annotated[bool, typer.Option("--json", callback=_json, help="Print one JSON document on standard output.")]
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        is_eager=True,
        callback=recipe.apply,
        help="TOML file with options of this command; the command line wins.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, a .gguf file, a Hub id owner/name, or demo:gemma-270m."),
]
Loadable = Annotated[
    str, typer.Argument(metavar="MODEL", help="The folder of an artifact, or a model as `compress` takes it.")
]
Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The folder of an artifact.")]
