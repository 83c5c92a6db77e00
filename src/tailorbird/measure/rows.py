"""What the rows of an embedding or a head are worth.

- As a head's row: the Fisher information of its logit, the mean of p (1 - p) over the calibration text, p the
  probability of its word: the second derivative of the model's own loss.
- As an embedding's row: how often it is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Logits in memory at once.
CHUNK = 2**24


def predicted(weight: Tensor, inputs: Tensor, cap: float = 0.0) -> Tensor:
    """Mean of p (1 - p) of every word, float32 (rows,).

    Args:
        weight: of the head, float32 (rows, cols).
        inputs: what the head reads, float32 (tokens, cols).
        cap: soft cap of the logits; 0: none.
    """
    total = torch.zeros(weight.shape[0])
    for some in torch.split(inputs, max(1, CHUNK // weight.shape[0])):
        logits = some @ weight.T
        if cap:
            logits = logits.div_(cap).tanh_().mul_(cap)
        p = logits.softmax(1)
        total += torch.addcmul(p, p, p, value=-1).sum(0)
    return total / max(1, len(inputs))


def read(batches: Iterable[Tensor], rows: int) -> Tensor:
    """How often every row of an embedding is read, as a share of all readings, float32 (rows,).

    Args:
        batches: token ids, int64 of any shape.
        rows: of the vocabulary.
    """
    counts = torch.zeros(rows, dtype=torch.int64)
    for ids in batches:
        counts += torch.bincount(ids.reshape(-1), minlength=rows)
    return (counts.double() / counts.sum().clamp_min(1)).float()
