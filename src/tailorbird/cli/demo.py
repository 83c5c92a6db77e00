"""``tailorbird demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.job import Job, perform, summary
from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import Session, say, session

MODEL = "demo:gemma-270m"


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the artifact goes.")] = Path("demo-out"),
    method: Annotated[str, typer.Option("--method", help="See `methods`.")] = "slim-llm",
    budget: Annotated[str, typer.Option("--budget", help="3bits, 120MB ...")] = "4.5bits",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="What to compress.")] = MODEL,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """The main job on the demo model: compress, verify, evaluate, and show both models side by side.

    A second call checks what the first one made and shows it again; an interrupted one goes on.
    """
    this = session(context)
    report = _made(out) or perform(Job(model, out, method, [budget], resume=True), this)
    if json or this.json:
        this.emit({"out": str(out)} | summary(report))
        return
    _show(report, out, this)


def _made(out: Path) -> dict[str, Any] | None:
    """The report of an earlier call, its artifact verified again; None where there is none."""
    from tailorbird.artifact.manifest import NAME, Manifest
    from tailorbird.artifact.verify import verify
    from tailorbird.errors import ArtifactError
    from tailorbird.files import read_json

    path = out / "report.json"
    if not path.is_file() or not (out / NAME).is_file() or not Manifest.read(out).verified:
        return None
    say(f"{out} is there already: checking it (to make it anew, remove it or name another folder with --out)")
    found = verify(out)
    report = read_json(path)
    if not isinstance(report, dict) or report.get("digest") != found.digest:
        raise ArtifactError(f"{path} does not belong to the artifact beside it", hint=f"remove {out} and start again")
    return report | {"report": str(out / "report.html"), "notes": []}


def _show(report: Mapping[str, Any], out: Path, this: Session) -> None:
    from tailorbird.cli.tables import outcome_table, samples_text

    this.show(outcome_table(report))
    this.line(samples_text(report))
    if report["model"].get("source") == MODEL:
        this.line("original: the GGUF file of the demo package (4 to 6 bits a weight), unpacked to 16 bits")
    this.line(f"artifact: {out} (verified, digest {report['digest']})\nreport:   {report['report']}")
