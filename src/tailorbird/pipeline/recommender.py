"""Recommenders as models to compress: their folder, and histories of their own data to calibrate with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tailorbird.errors import DataError, UsageError
from tailorbird.files import json_bytes
from tailorbird.methods import find
from tailorbird.tasks.sequences import store
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.laid import laid
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.run import divide

BATCH = 16  # histories


def is_folder(source: object) -> bool:
    """Whether a model is the folder of a trained recommender, and not of a compressed one."""
    if not isinstance(source, str | Path):
        return False
    return (Path(source) / folder.CONFIG).is_file() and (Path(source) / folder.TENSORS).is_file()


def module(source: str | Path | nn.Module) -> Recommender:
    """The module of a recommender's folder, laid out for compression; it brings `recommender.json` along.

    Raises:
        ModelError: the folder is damaged, or of a recommender that can't be compressed.
    """
    if isinstance(source, nn.Module):
        raise UsageError("a module is no folder", hint="pass it as it is")
    trained, about = folder.read(Path(source))
    made = laid(trained)
    made.__dict__["files"] = {folder.CONFIG: json_bytes(about)}
    return made


def files_of(source: Any) -> dict[str, bytes]:
    """What a module brings along."""
    return dict(getattr(source, "files", {}))


def windows(source: str | Path | nn.Module, method: str, data: Any, samples: int, seed: int) -> Any:
    """What a job is calibrated with: for a recommender pieces of its training events, as long as it looks, int64 (16,
    length) each; for anything else what the user gave.

    The first event of every batch is a pad: the pipeline numbers the items of a batch anew, and the pad must stay 0.

    Args:
        source: a model; the folder of a recommender names its data.
        method: none are needed where it calibrates nothing.
        data: what the user gave, for a recommender nothing.
        samples: how many at most.
        seed: of their choice.

    Raises:
        UsageError: data were given.
        DataError: the data set is not there, or not the one of the training.
    """
    if not is_folder(source):
        return data
    if data is not None:
        raise UsageError("a recommender is calibrated on its own training events", hint="leave --data out")
    if not find(method).needs:
        return None
    trained, about = folder.read(Path(str(source)))
    found = store.load(str(about["data"]["name"]))
    if found.digest != about["data"]["digest"]:
        raise DataError(f"{source} was trained on other events than these of {found.name!r}", hint="train it again")
    split, length = divide(found, str(about["data"]["split"])), trained.shape.length
    events = [split.train(user) for user in range(found.users)]
    pieces = [row[i : i + length] for row in events for i in range(0, len(row) - length + 1, length)]
    if not pieces:
        raise DataError(f"no user has {length} training events to calibrate with", hint="take --method hqq, or rtn")
    chosen = np.random.default_rng(seed).permutation(len(pieces))[:samples]
    ids = torch.from_numpy(np.stack([pieces[i] for i in chosen]))
    for batch in (batches := list(torch.split(ids, BATCH))):
        batch[0, 0] = 0
    return batches
