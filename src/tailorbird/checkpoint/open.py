"""Finding out what the user means by a model, and opening it."""

from __future__ import annotations

import re
from pathlib import Path

from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.checkpoint.folder import open_folder
from tailorbird.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def open_checkpoint(source: str | Path, *, cache: Path | None = None, download: bool = True) -> Checkpoint:
    """Open a model: a folder, a GGUF file, ``demo:NAME``, or a Hub id ``owner/name``; an existing path wins.

    Args:
        source: what the user named.
        cache: root of the folder for converted GGUF files; by default ``$TAILORBIRD_CACHE`` or
            ``~/.cache/tailorbird``.
        download: fetch a Hub model that is not in the Hub's own cache yet.

    Returns:
        A folder's checkpoint; for a GGUF file that of its cached conversion.

    Raises:
        ModelError: nothing of that name, or a model that is damaged or unsupported.
        MissingExtra: a library that is needed for this kind of model is not installed.
    """
    name, path = str(source), Path(source).expanduser()
    if path.is_dir():
        return open_folder(path, name)
    if path.exists():
        return _open_file(path, name, cache)
    if name.startswith("demo:"):
        from tailorbird.checkpoint.demo import open_demo

        return open_demo(name.removeprefix("demo:"), cache=cache)
    if isinstance(source, str) and _HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        from tailorbird.checkpoint.hub import fetch

        return open_folder(fetch(name, download), name)
    raise ModelError(
        f"there is no model {name!r}: no such folder or file, and it is not a Hub id of the form owner/name",
        hint="give a folder, a .gguf file, owner/name, or demo:gemma-270m",
    )


def _open_file(path: Path, name: str, cache: Path | None) -> Checkpoint:
    if path.suffix.lower() == ".safetensors":
        raise ModelError(
            f"{path} is a single file", hint=f"give the folder that holds it and config.json: {path.parent}"
        )
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            f"{path} is a pickle, which is never loaded: opening one can run any code",
            hint="give a folder with safetensors, or a GGUF file",
        )
    if path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is not a model", hint="give a folder, or a file that ends in .gguf")
    from tailorbird.checkpoint.gguf import open_gguf

    return open_gguf(path, name, cache=cache)
