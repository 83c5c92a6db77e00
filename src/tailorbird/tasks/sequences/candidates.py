"""Candidates that are drawn once and kept in a file, so that whoever ranks among some ranks among the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.formats.safetensors_header import header_bytes, read_header, read_tensor
from tailorbird.formats.safetensors_write import stream
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.ranking import digest_of, draw_candidates
from tailorbird.tasks.sequences.split import Split, Stage

NAME, VERSION = "candidates", 1


def draw(path: Path, split: Split, count: int, seed: int = 0, stage: Stage = "test") -> Ints:
    """Draw `count` items a case that its user never met, and keep them in a new file with what they are for.

    Returns:
        int64 (cases, count).

    Raises:
        UsageError: the file exists: candidates are drawn once.
        DataError: a user has met too many items, or a count below 1.
    """
    if path.exists():
        raise UsageError(f"{path} exists", hint="rank among what it holds, without --draw, or name another file")
    if count < 1:
        raise DataError(f"{count} candidates", hint="one or more; 100 is what papers take")
    drawn = draw_candidates(split, count, seed, stage)
    tensor = torch.from_numpy(drawn)
    words = json.dumps(_words(split, stage) | {"seed": seed, "candidates": digest_of(drawn)})
    stream(path, {NAME: tensor}, lambda name: [tensor], {"about": words})
    return drawn


def read(path: Path, split: Split, stage: Stage = "test") -> Ints:
    """The candidates of a file, int64 (cases, count), held to the data and the split they are used on.

    Raises:
        DataError: the file is missing or damaged, was drawn for other events, another split or stage, or holds what can
            be no candidate: an item that is none, twice, or the right one.
    """
    header = read_header(path, error=DataError)
    about, cases = _about(path), split.cases(stage)
    if {key: about.get(key) for key in _words(split, stage)} != _words(split, stage):
        what = f"{about.get('stage')} of {about.get('split')} on events {str(about.get('data'))[:16]}"
        raise DataError(f"{path} was drawn for the {what}", hint="draw candidates for this data set and split")
    info = header.get(NAME)
    shape = info.shape if info is not None and info.dtype == torch.int64 else ()
    if info is None or len(shape) != 2 or shape[0] != len(cases) or not 0 < shape[1] < split.data.count:
        raise DataError(f"{path} holds no candidates for {len(cases)} cases", hint="draw them again")
    found: Ints = read_tensor(info, error=DataError).numpy()
    _check(path, found, split.data.items[cases.at], split.data.count)
    if about.get("candidates") != digest_of(found):
        raise DataError(f"{path}: the candidates have another digest than was written", hint="draw them again")
    return found


def _words(split: Split, stage: Stage) -> dict[str, Any]:
    return {"version": VERSION, "data": split.data.digest, "split": split.name, "stage": stage}


def _about(path: Path) -> dict[str, Any]:
    """What the file says it is for."""
    try:
        found = json.loads(json.loads(header_bytes(path, error=DataError))["__metadata__"]["about"])
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise DataError(f"{path} does not say what it is for", hint="draw candidates into a new file") from cause
    return found if isinstance(found, dict) else {}


def _check(path: Path, found: Ints, targets: Ints, count: int) -> None:
    ordered = found.copy()
    ordered.sort(axis=1)
    good = ordered[:, 0].min() >= 1 and ordered[:, -1].max() <= count
    good &= bool((ordered[:, 1:] != ordered[:, :-1]).all()) and not (found == targets[:, None]).any()
    if not good:
        raise DataError(f"{path} holds what can be no candidate", hint="draw them again")
