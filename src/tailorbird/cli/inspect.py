"""``tailorbird inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tailorbird.cli.options import Folder, Json, Recipe
from tailorbird.cli.session import session

if TYPE_CHECKING:
    from tailorbird.artifact import Artifact


def command(context: typer.Context, artifact: Folder, recipe: Recipe = None, json: Json = False) -> None:
    """Show what an artifact consists of: digest, bytes, honest bits, and the format of every part."""
    from tailorbird.artifact import Artifact

    this = session(context)
    found = described(Artifact.open(artifact))
    if this.json:
        this.emit(found)
        return
    from tailorbird.cli.tables import parts_table

    mark = "verified" if found["verified"] else "NOT verified"
    this.line(f"{artifact}: {found['bytes']:,} bytes, {found['bits']:.4f} bits a weight, {mark}")
    this.line(f"method {found['method']}, digest {found['digest']}")
    this.show(parts_table(found["parts"]))


def described(artifact: Artifact) -> dict[str, Any]:
    """What `inspect --json` prints."""
    plan = artifact.plan
    return {
        "digest": artifact.digest,
        "bits": artifact.bits,
        "bytes": artifact.nbytes,
        "verified": artifact.manifest.verified,
        "method": plan.method,
        "options": dict(plan.options),
        "weights": plan.numel,
        "parts": [
            {
                "name": part.name,
                "shape": list(part.shape),
                "role": part.role,
                "block": part.block,
                "format": plan.specs[part.name].to_json(),
                "bits": 8 * plan.part_bytes(part) / part.numel,
                "bytes": plan.part_bytes(part),
            }
            for part in plan.parts
        ],
        "files": {name: size for name, (size, _) in artifact.manifest.files.items()},
    }
