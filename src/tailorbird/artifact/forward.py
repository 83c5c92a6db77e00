"""A forward pass of a model whose weights are fetched block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.measure.shell import Shell


@torch.no_grad()
def forward(model: Model, ids: Tensor, rows: int) -> Tensor:
    """Logits (batch, length, rows) of the first `rows` tokens of the vocabulary, one block in memory at a time.

    Args:
        model: a causal language model.
        ids: int64 (batch, length).
        rows: of the head that are multiplied by.
    """
    shell = Shell(model)
    embedding = next(part for part in model.parts if part.role == "embedding")
    hidden = shell.enter(
        ids, lambda unique: torch.cat([model.read_rows(embedding, int(i), int(i) + 1) for i in unique]).float()
    )
    for index, name in enumerate(model.blocks):
        model.fill(name)
        hidden = shell.run(index, hidden)
        model.drop(name)
    head = next((part for part in model.parts if part.role == "head"), embedding)
    return shell.leave(hidden) @ model.read_rows(head, 0, min(rows, head.shape[0])).float().T
