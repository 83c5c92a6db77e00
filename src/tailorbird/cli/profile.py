"""``tailorbird profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.options import Json, Recipe
from tailorbird.cli.session import say, session


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the table goes; it must not exist.")],
    threads: Annotated[int, typer.Option("--threads", help="Of the kernels; 0 for all processors.")] = 0,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Measure this machine: memory bandwidth, and what products with packed weights cost by shape and bits."""
    from dataclasses import asdict

    from tailorbird.errors import UsageError
    from tailorbird.kernels.native import set_threads
    from tailorbird.runtime.profile import measure

    this = session(context)
    if out.exists():
        raise UsageError(f"{out} is there already", hint="name another file, or remove it")
    set_threads(threads)
    found = measure(lambda done, total: say(f"{done} of {total} batch sizes measured"))
    found.write(out)
    if this.json:
        this.emit(asdict(found))
        return
    this.line(
        f"{found.machine}: {found.kernels}, {found.threads} threads, reads {found.read_bytes_per_s / 1e9:.1f} GB/s"
    )
    this.line(f"{len(found.entries)} products measured, written to {out}")
