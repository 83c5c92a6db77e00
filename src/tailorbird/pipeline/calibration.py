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
# Tokens that losses are estimated on, that roles are probed on, and that whole plans are compared on: on 1,024 tokens
# two plans of seven bits compared the other way round than on others.
ESTIMATE = 2048
PROBED = 1024
HELD_BACK = 4096
# Tokens of the text in which words are counted, where rows have bits by what they are worth: counting costs next to
# nothing, and a few windows hold few of a vocabulary's words.
COUNTED = 2**19
NONE = torch.empty(0, 0, dtype=torch.int64)


@dataclass(frozen=True)
class Calibration:
    """What a job is calibrated on.

    Attributes:
        batches: what runs through the model together.
        digest: of all of it.
        counted: token ids in which words are counted, int64 (windows, length); none where nobody asks.
    """

    batches: Sequence[Tensor]
    digest: str
    counted: Tensor


@dataclass(frozen=True)
class Windows:
    """Windows of calibration text, int64 (count, length) each.

    Attributes:
        estimate: what losses are estimated on.
        held_back: what they are checked on; the method is not fitted to it, where the text is long enough.
        others: all other windows, `COUNTED` tokens at most: rows must not be given bits by the text that says what
            bits are worth.
    """

    estimate: Tensor
    held_back: Tensor
    others: Tensor

    @property
    def probed(self) -> Tensor:
        """The first of those held back."""
        return self.held_back[: max(1, PROBED // self.held_back.shape[1])]


def weighing(job: Prepared, data: str | Path | None, samples: int, length: int, seed: int) -> Windows:
    """What a plan is weighed on: the first of the job's calibration windows, and some that come after them.

    Args:
        job: of a language model.
        data, samples, length, seed: as for `calibration`.
    """
    assert job.checkpoint is not None
    first, last, more = _shares(samples, length)
    ids = calibration_windows(Tokenizer.of(job.checkpoint), documents(data), length, _wanted(job, last, length), seed)
    others = torch.cat([ids[first : last - more], ids[last:]])
    return Windows(ids[:first], ids[:last][-more:], others if len(others) else ids[:first])


def _shares(samples: int, length: int) -> tuple[int, int, int]:
    """Windows to estimate on, windows up to the last held back, and how many are."""
    first, more = max(1, ESTIMATE // length), max(1, HELD_BACK // length)
    return first, max(samples, first) + more, more


def _wanted(job: Prepared, least: int, length: int) -> int:
    return max(least, COUNTED // length) if job.by_rows else least


def calibration(
    job: Prepared, data: str | Path | Sequence[Tensor] | None, samples: int, length: int, seed: int
) -> Calibration:
    """Calibration data for a job; none at all where the method needs none.

    Raises:
        DataError: the data is of the wrong kind, or missing for a module from memory.
    """
    if not job.method.calibrated:
        return Calibration([], "none", NONE)
    if job.checkpoint is None:
        if data is None or isinstance(data, str | Path) or not all(isinstance(batch, Tensor) for batch in data):
            raise DataError(
                f"method {job.method.name!r} on a module needs its input batches",
                hint="pass data=[tensor, ...] or use method='rtn'",
            )
        return _digested([batch.float() if batch.is_floating_point() else batch for batch in data], NONE)
    if data is not None and not isinstance(data, str | Path):
        raise DataError(
            "a language model is calibrated on text",
            hint="pass a file name, or nothing for the packaged text",
        )
    tokenizer = Tokenizer.of(job.checkpoint)
    _, last, more = _shares(samples, length)
    ids = calibration_windows(tokenizer, documents(data), length, _wanted(job, samples, length), seed)
    counted = torch.cat([ids[: last - more], ids[last:]]) if job.by_rows else NONE
    return _digested(list(torch.split(ids[:samples], BATCH)), counted)


def _digested(batches: Sequence[Tensor], counted: Tensor) -> Calibration:
    digest = hashlib.sha256()
    for batch in [*batches, *([counted] if len(counted) else [])]:
        digest.update(repr((batch.dtype, tuple(batch.shape))).encode())
        digest.update(raw_bytes(batch))
    return Calibration(batches, digest.hexdigest(), counted)


def original_rows(job: Prepared, data: Calibration) -> Callable[[Tensor], Tensor]:
    """Uncompressed embedding rows by token id; only those the data use are read."""
    name = job.model.anatomy.embedding
    if not name:
        return lambda ids: ids
    used = torch.unique(torch.cat([batch.reshape(-1) for batch in data.batches]))
    table = job.model.gather(f"{name}.weight", used).float()
    return lambda ids: table[torch.searchsorted(used, ids)]
