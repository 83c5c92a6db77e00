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
    bench: Annotated[bool, typer.Option("--bench", help="Measure how fast they decode.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="What bare plans are of, to measure their speed.")
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Every part whose bits differ.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Lay plans and artifacts side by side: bytes, bits by role and part, quality as their reports have it, speed."""
    this = session(context)
    found = [described(path, bench, model) for path in items]
    if this.json:
        this.emit({"items": found})
        return
    from tailorbird.cli.tables import comparison_table, difference_table

    this.show(comparison_table(found))
    if parts:
        this.show(difference_table(found))


def described(path: Path, bench: bool = False, model: str | None = None) -> dict[str, Any]:
    """One column of the comparison; null stands for what is not known.

    Args:
        path: the folder of an artifact, or the file of a plan.
        bench: measure its speed.
        model: what a plan is of; all that ``--dry-run --json`` printed names it.

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
    plan, printed = plan_of(path, None), _printed(path)
    model = model or printed.get("model")
    return (
        {"name": path.name, "bytes": printed.get("bytes"), "bits": printed.get("bits")}
        | _plan(plan)
        | {"quality": None, "milliseconds": _planned_milliseconds(plan, model) if bench and model else None}
    )


def _printed(path: Path) -> dict[str, Any]:
    """What ``--dry-run --json`` printed around a plan: sizes of the whole artifact, at most; empty for a bare plan."""
    from tailorbird.files import read_json

    found = read_json(path, error=UsageError)
    kinds: dict[str, Any] = {"model": str, "bytes": int, "bits": float}
    return {key: found[key] for key, kind in kinds.items() if "plan" in found and type(found.get(key)) is kind}


def _plan(plan: Plan) -> dict[str, Any]:
    roles: dict[str, list[float]] = {}
    for part in plan.parts:
        sums = roles.setdefault(part.role, [0, 0])
        sums[0] += 8 * plan.part_bytes(part)
        sums[1] += part.numel
    return {
        "method": plan.method,
        "packed_bytes": plan.code_bytes,
        "packed_bits": 8 * plan.code_bytes / plan.numel,
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


def _planned_milliseconds(plan: Plan, model: str) -> float:
    """Of the model in the plan's formats, with nothing in them; rotated where the plan's method rotates."""
    from tailorbird.pipeline import prepare
    from tailorbird.pipeline.latency import hollow
    from tailorbird.runtime.speed import milliseconds

    return milliseconds(hollow(prepare(model, plan=plan)))
