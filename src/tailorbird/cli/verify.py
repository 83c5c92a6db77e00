"""``tailorbird verify``."""

from __future__ import annotations

import typer

from tailorbird.cli.options import Folder, Json, Recipe
from tailorbird.cli.session import session


def command(context: typer.Context, artifact: Folder, recipe: Recipe = None, json: Json = False) -> None:
    """Check an artifact: files, sizes, digests, every packed weight, and a forward pass; or the files of an export.

    Ends with exit code 6 and the reason when anything is off.
    """
    from tailorbird.artifact.manifest import NAME, Manifest
    from tailorbird.artifact.verify import verify

    this = session(context)
    found = verify(artifact)
    # An export gets its name after it was compared with the artifact.
    marked = Manifest.read(artifact).verified if (artifact / NAME).exists() else True
    if this.json:
        this.emit(
            {
                "ok": True,
                "digest": found.digest,
                "bytes": found.nbytes,
                "bits": found.bits,
                "checks": list(found.checks),
                "marked_verified": marked,
            }
        )
        return
    for check in found.checks:
        this.line(f"ok: {check}")
    this.line(f"{artifact}: {found.nbytes:,} bytes, {found.bits:.4f} bits a weight, digest {found.digest}")
