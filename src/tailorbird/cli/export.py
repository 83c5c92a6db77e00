"""``tailorbird export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.compress import options_of
from tailorbird.cli.options import Folder, Json, Recipe
from tailorbird.cli.session import Session, session
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.artifact.export import Exported


Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", show_default="packaged texts", help="With --refit: .jsonl, .txt, hub:NAME."),
]
Samples = Annotated[int | None, typer.Option("--samples", show_default="64", help="With --refit: calibration windows.")]
Length = Annotated[int | None, typer.Option("--length", show_default="512", help="With --refit: tokens of a window.")]
Seed = Annotated[int | None, typer.Option("--seed", show_default="0", help="With --refit: of their choice.")]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="SIZE", help="Most bytes the exported files may take, as 150MB.")
]


def command(
    context: typer.Context,
    artifact: Folder,
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="hf, compressed-tensors, onnx, gguf ...")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of weights the target keeps unpacked: fp32, fp16 or bf16.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the target; may be repeated.")
    ] = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Take the nearest format where the target can't carry one.")
    ] = False,
    original: Annotated[
        str | None, typer.Option("--original", metavar="MODEL", help="To measure against; the recipe's by default.")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="gguf: fit the weights of --original into the types, with calibration text."),
    ] = False,
    data: Data = None,
    samples: Samples = None,
    length: Length = None,
    seed: Seed = None,
    budget: Budget = None,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Write an artifact in the form of another runtime, compared with the artifact by that runtime's own library."""
    from tailorbird.artifact.export import export
    from tailorbird.cli.progress import evaluation

    this = session(context)
    options = options_of(settings or []) | ({} if dtype is None else {"dtype": dtype})
    windows = _given(refit, data=data, samples=samples, length=length, seed=seed)
    with evaluation("exporting") as told:
        common: dict[str, Any] = {"options": options, "budget": budget, "told": told}
        if refit:
            from tailorbird.pipeline.refit import export_refitted

            done = export_refitted(artifact, out, to, _named(original), **common, **windows)
        else:
            from tailorbird.pipeline.offer import solved

            done = export(artifact, out, to, reencode=reencode, original=original, advise=solved, **common)
    found = described(done)
    if this.json:
        this.emit(found)
        return
    _show(this, done, found)


def _show(this: Session, done: Exported, found: Mapping[str, Any]) -> None:
    if done.changes:
        from tailorbird.cli.tables import changes_table

        this.show(changes_table(found["changes"]))
    if done.offer:
        for line in filter(None, (done.offer.comparison, done.offer.text)):
            this.line(line)
    check = done.check
    same = "every weight is the artifact's" if done.exact else f"weights differ by {check.error:.2g} at most"
    this.line(f"{done.folder}: {done.nbytes:,} bytes for {done.target}; the artifact has {done.artifact_nbytes:,}")
    this.line(f"{check.library} read back {check.parts} tensors: {same}{f' ({check.why})' if check.why else ''}")
    for note in check.notes:
        this.line(f"note: {note}")


def _given(refit: bool, **windows: Any) -> dict[str, Any]:
    """The calibration options that were given."""
    given = {name: value for name, value in windows.items() if value is not None}
    if given and not refit:
        raise UsageError(f"--{min(given)} is for --refit", hint="leave it out, or add --refit --original MODEL")
    return given


def _named(original: str | None) -> str:
    if original is None:
        raise UsageError("--refit needs the original model", hint="name it: --original MODEL")
    return original


def described(done: Exported) -> dict[str, Any]:
    """What ``export --json`` prints."""
    from dataclasses import asdict

    from tailorbird.artifact.changes import grouped

    return {
        "out": str(done.folder),
        "target": done.target,
        "bytes": done.nbytes,
        "artifact_bytes": done.artifact_nbytes,
        "digest": done.digest,
        "exact": done.exact,
        "check": asdict(done.check),
        "changes": grouped(done.changes),
        "advice": done.advice or None,
        "offer": asdict(done.offer) if done.offer else None,
    }
