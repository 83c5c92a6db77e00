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
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", show_default="packaged texts", help="Text: .jsonl, .txt, hub:NAME."),
]
Samples = Annotated[int, typer.Option("--samples", help="Calibration windows.")]
Length = Annotated[int, typer.Option("--length", help="Tokens of a window.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; may be repeated.")
]
Target = Annotated[
    str | None, typer.Option("--target", metavar="NAME", help="Obey the rules of a runtime; see `export`.")
]
Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The folder of an artifact.")]
