"""Calibration data of a job: windows of tokens, or the batches given for a module."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.errors import DataError
from tailorbird.formats.raw import raw_bytes
from tailorbird.pipeline.prepare import Prepared
from tailorbird.tasks.text import Tokenizer, calibration_windows, documents

BATCH = 4
# Tokens that losses are estimated on, and that they are checked on.
ESTIMATE = 2048
HELD_BACK = 1024


@dataclass(frozen=True)
class Calibration:
    """Batches that run through the model together, and the digest of them all."""

    batches: Sequence[Tensor]
    digest: str


@dataclass(frozen=True)
class Windows:
    """Windows of calibration text, int64 (count, length) each.

    Attributes:
        estimate: what losses are estimated on.
        held_back: what they are checked on; the method is not fitted to it, where the text is long enough.
    """

    estimate: Tensor
    held_back: Tensor


def weighing(job: Prepared, data: str | Path | None, samples: int, length: int, seed: int) -> Windows:
    """What a plan is weighed on: the first of the job's calibration windows, and some that come after them.

    Args:
        job: of a language model.
        data, samples, length, seed: as for `calibration`.
    """
    assert job.checkpoint is not None
    first, more = max(1, ESTIMATE // length), max(1, HELD_BACK // length)
    ids = calibration_windows(Tokenizer.of(job.checkpoint), documents(data), length, max(samples, first) + more, seed)
    return Windows(ids[:first], ids[-more:])


def calibration(
    job: Prepared, data: str | Path | Sequence[Tensor] | None, samples: int, length: int, seed: int
) -> Calibration:
    """Calibration data for a job; none at all where the method needs none.

    Raises:
        DataError: the data is of the wrong kind, or missing for a module from memory.
    """
    if not job.method.calibrated:
        return Calibration([], "none")
    if job.checkpoint is None:
        if data is None or isinstance(data, str | Path) or not all(isinstance(batch, Tensor) for batch in data):
            raise DataError(
                f"method {job.method.name!r} on a module needs its input batches",
                hint="pass data=[tensor, ...] or use method='rtn'",
            )
        return _digested([batch.float() if batch.is_floating_point() else batch for batch in data])
    if data is not None and not isinstance(data, str | Path):
        raise DataError(
            "a language model is calibrated on text",
            hint="pass a file name, or nothing for the packaged text",
        )
    tokenizer = Tokenizer.of(job.checkpoint)
    ids = calibration_windows(tokenizer, documents(data), length, samples, seed)
    return _digested(list(torch.split(ids, BATCH)))


def _digested(batches: Sequence[Tensor]) -> Calibration:
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(repr((batch.dtype, tuple(batch.shape))).encode())
        digest.update(raw_bytes(batch))
    return Calibration(batches, digest.hexdigest())


def original_rows(job: Prepared, data: Calibration) -> Callable[[Tensor], Tensor]:
    """Uncompressed embedding rows by token id; only those the data use are read."""
    name = job.model.anatomy.embedding
    if not name:
        return lambda ids: ids
    used = torch.unique(torch.cat([batch.reshape(-1) for batch in data.batches]))
    table = job.model.gather(f"{name}.weight", used).float()
    return lambda ids: table[torch.searchsorted(used, ids)]
