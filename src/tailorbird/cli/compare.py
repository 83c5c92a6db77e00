"""``tailorbird compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import session
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.plan import Plan


def command(
    context: typer.Context,
    items: Annotated[list[Path], typer.Argument(metavar="ITEMS", help="Folders of artifacts, and files of plans.")],
    bench: Annotated[bool, typer.Option("--bench", help="Measure how fast the artifacts decode.")] = False,
    parts: Annotated[bool, typer.Option("--parts", help="Every part whose bits differ.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Lay plans and artifacts side by side: bytes, bits by role and part, quality as their reports have it, speed."""
    this = session(context)
    found = [described(path, bench) for path in items]
    if this.json:
        this.emit({"items": found})
        return
    from tailorbird.cli.tables import comparison_table, difference_table

    this.show(comparison_table(found))
    if parts:
        this.show(difference_table(found))


def described(path: Path, bench: bool = False) -> dict[str, Any]:
    """One column of the comparison; null stands for what is not known.

    Raises:
        UsageError: neither an artifact nor a plan.
    """
    from tailorbird.artifact import Artifact
    from tailorbird.artifact.manifest import NAME
    from tailorbird.cli.compress import plan_of

    if (path / NAME).is_file():
        artifact = Artifact.open(path)
        return (
            {"name": path.name, "bytes": artifact.nbytes, "bits": artifact.bits}
            | _plan(artifact.plan)
            | {"quality": _quality(path), "milliseconds": _milliseconds(path) if bench else None}
        )
    if not path.is_file():
        raise UsageError(f"{path} is neither the folder of an artifact nor the file of a plan", hint="name one of them")
    plan = plan_of(path, None)
    size = plan.code_bytes
    return (
        {"name": path.name, "bytes": size, "bits": 8 * size / plan.numel}
        | _plan(plan)
        | {"quality": None, "milliseconds": None}
    )


def _plan(plan: Plan) -> dict[str, Any]:
    roles: dict[str, list[float]] = {}
    for part in plan.parts:
        sums = roles.setdefault(part.role, [0, 0])
        sums[0] += 8 * plan.part_bytes(part)
        sums[1] += part.numel
    return {
        "method": plan.method,
        "roles": {role: stored / weights for role, (stored, weights) in roles.items()},
        "parts": {part.name: plan.specs[part.name].mean_bits for part in plan.parts},
    }


def _quality(folder: Path) -> dict[str, Any] | None:
    """What the report beside an artifact says, if it is the artifact's."""
    from tailorbird.artifact import Artifact
    from tailorbird.errors import ArtifactError
    from tailorbird.files import read_json

    path = folder / "report.json"
    report = read_json(path, error=ArtifactError) if path.is_file() else None
    if not isinstance(report, dict) or report.get("digest") != Artifact.open(folder, digests=False).digest:
        return None
    quality = report.get("quality")
    if not isinstance(quality, dict) or not isinstance(quality.get("compressed"), dict):
        return None
    return dict(quality["compressed"]) | {"text": quality.get("text"), "tokens": quality.get("tokens")}


def _milliseconds(folder: Path) -> float:
    from tailorbird.runtime.load import load
    from tailorbird.runtime.speed import milliseconds

    return milliseconds(load(folder))
