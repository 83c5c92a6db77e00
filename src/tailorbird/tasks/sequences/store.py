"""Data sets that were fetched, as they lie in the cache: events in one safetensors file, words in one JSON file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailorbird.checkpoint.cache import cache_folder
from tailorbird.errors import DataError
from tailorbird.files import atomic_folder, read_json, write_json
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.sources import fetch, source

EVENTS, WORDS = "events.safetensors", "data.json"
MAX_WORDS = 2**28


def get(name: str, path: Path | None = None, cache: Path | None = None) -> Sequences:
    """Fetch a data set and keep it in the cache; one that is kept already is fetched anew only from a `path`.

    Raises:
        DataError: see `sources.fetch`.
    """
    folder = _folder(name, cache)
    if path is None and folder.is_dir():
        return read(folder)
    found = fetch(name, path)
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as aside:
        save(found, aside)
    return found


def load(name: str, cache: Path | None = None) -> Sequences:
    """A data set that is kept, packaged or in an installed package; nothing is downloaded.

    Raises:
        DataError: it is none of these.
    """
    source(name)
    folder = _folder(name, cache)
    return read(folder) if folder.is_dir() else fetch(name, download=False)


def save(data: Sequences, folder: Path) -> None:
    """Write a data set into an existing folder."""
    arrays = {"offsets": data.offsets, "items": data.items, "times": data.times, "validated": data.validated}
    tensors = {key: torch.from_numpy(array.astype(np.int64)) for key, array in arrays.items() if array is not None}
    write(folder / EVENTS, tensors)
    words = {"name": data.name, "count": data.count, "licence": data.licence, "digest": data.digest}
    write_json(folder / WORDS, words | {"titles": list(data.titles)})


def read(folder: Path) -> Sequences:
    """Read `save` back.

    Raises:
        DataError: damaged, or not what was written.
    """
    words = read_json(folder / WORDS, limit=MAX_WORDS, error=DataError)
    try:
        header = read_header(folder / EVENTS, error=DataError)
        arrays: dict[str, Any] = {key: read_tensor(info, error=DataError).numpy() for key, info in header.items()}
        flags = arrays["validated"].astype(bool) if "validated" in arrays else None
        found = Sequences(
            str(words["name"]), arrays["offsets"], arrays["items"], int(words["count"]), arrays.get("times"),
            tuple(map(str, words["titles"])), flags, str(words["licence"]),
        )  # fmt: skip
        if found.digest != words["digest"]:
            raise DataError(f"{folder}: the events have another digest than was written", hint="fetch it again")
    except (KeyError, TypeError, ValueError) as cause:
        raise DataError(f"{folder}: {type(cause).__name__}: {cause}", hint="remove it and fetch it again") from cause
    return found


def _folder(name: str, cache: Path | None) -> Path:
    return cache_folder(cache) / "data" / name
