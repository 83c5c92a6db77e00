"""The protocol that every peer is scored by, and the rows of the result file.

The text is tokenised once, without special tokens. Its first `tokens` tokens are cut into windows of 1,023
that do not overlap (a remainder is left out); each window gets the model's BOS in front, where it has none the
token before, and all 1,023 predictions count.
Perplexity is exp of the mean negative log-likelihood in nats, summed in float64.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

WINDOW = 1024
Ids = np.ndarray[Any, np.dtype[np.int32]]
_ROWS = 128  # positions whose log-sum-exp is taken at once: 128 x 262,144 floats are 134 MB


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model file of one peer.

    `bytes` is everything the peer's runtime loads, vocabulary included; `weight_bytes` the weights and their
    scales alone. `bits` and `weight_bits` are 8 x those bytes per weight of the original, a tied embedding
    counted once. `types`: how many weights each format holds. `seconds`: to quantise, calibration apart.
    """

    peer: str
    version: str
    type: str
    bytes: int
    weight_bytes: int
    bits: float
    weight_bits: float
    perplexity: float
    tokens: int
    seconds: float
    evaluation_seconds: float
    note: str
    types: dict[str, int] = field(default_factory=dict)
    settings: str = ""


def read_text(path: Path) -> str:
    """The text of a file, gzip or plain, with its line ends as they are."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf8", newline="") as handle:
        return str(handle.read())


def read_articles(path: Path, seed: int = 0) -> list[str]:
    """The `text` fields of a JSON-lines file, shuffled so that its first articles stand for all of it."""
    texts = [str(json.loads(line)["text"]) for line in read_text(path).splitlines() if line.strip()]
    random.Random(seed).shuffle(texts)
    return texts


def windows(ids: list[int], tokens: int, bos: int | None, length: int = WINDOW) -> Ids:
    """Cut the first `tokens` ids into rows of `length`: BOS and `length - 1` tokens of the text. Without BOS a row
    begins with the last token of the one before."""
    count = min(tokens, len(ids) - (bos is None)) // (length - 1)
    if count == 0:
        raise SystemExit(f"{len(ids)} tokens of text do not fill one window of {length - 1}")
    if bos is None:
        every = np.asarray(ids[: count * (length - 1) + 1], dtype=np.int32)
        return np.lib.stride_tricks.sliding_window_view(every, length)[:: length - 1].copy()
    body = np.asarray(ids[: count * (length - 1)], dtype=np.int32).reshape(count, length - 1)
    return np.concatenate([np.full((count, 1), bos, dtype=np.int32), body], axis=1)


def nll(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Sum of -log p(target) in nats over the rows of `logits` (n x vocabulary)."""
    total = 0.0
    for start in range(0, len(logits), _ROWS):
        rows, goals = logits[start : start + _ROWS], targets[start : start + _ROWS]
        chosen = rows.gather(1, goals.long()[:, None])[:, 0]
        total += float((rows.logsumexp(1).double() - chosen.double()).sum())
    return total


def perplexity(score: Callable[[Ids], float], cut: Ids) -> float:
    """exp of the mean of `score`, which gives the summed NLL of one window."""
    return float(np.exp(sum(score(window) for window in cut) / (cut.shape[0] * (cut.shape[1] - 1))))


def digest(*parts: object) -> str:
    """A short name for the settings that a row depends on."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class Job:
    """The work that makes one row, and what tells whether an earlier row still stands for it."""

    peer: str
    version: str
    type: str
    settings: str
    work: Callable[[], Row]

    @property
    def key(self) -> tuple[str, ...]:
        return (self.peer, self.version, self.type, self.settings)


class Results:
    """The result file: rewritten after every row, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        self._known = {tuple(row[name] for name in ("peer", "version", "type", "settings")): row for row in known}

    def run(self, jobs: list[Job]) -> Iterator[tuple[dict[str, Any], bool]]:
        """Run the jobs that have no row yet; yield each row and whether it was kept."""
        rows = {job.key: self._known[job.key] for job in jobs if job.key in self._known}
        for job in jobs:
            kept = job.key in rows
            if not kept:
                rows[job.key] = asdict(job.work()) | {"settings": job.settings}
                self._write([rows[each.key] for each in jobs if each.key in rows])
            yield rows[job.key], kept

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.partial")
        aside.write_text(json.dumps(self.header | {"rows": rows}, indent=1) + "\n")
        os.replace(aside, self.path)
