"""Cross-entropy over a whole catalogue whose logits are never all in memory.

A batch of histories has millions of logits: written, normalised, kept for the backward pass and read again they take
more than twice the time of the products. Here a few rows at a time stay in the cache, and leave it as what they add to
the gradients, which are ready when the loss is (Hsu et al., Liger Kernel, arXiv 2410.10989).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits at a time: what two cores hold in their caches.
ROOM, FEWEST = 2**20, 32


def cross_entropy(vectors: Tensor, table: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """The mean of minus the log-probabilities of the right items.

    Args:
        vectors: (n, width), n at least 1.
        table: (items, width); the logits are `vectors @ table.T + bias`.
        target: rows of the table, int64 (n,).
        bias: (items,), or none.

    Returns:
        A number; it is differentiated once.
    """
    return cast(Tensor, _CrossEntropy.apply(vectors, table, target, bias))  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, table: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
        count, items = len(vectors), len(table)
        rows = max(FEWEST, ROOM // items)
        room = vectors.new_empty(min(rows, count), items)
        to_vectors, to_table = torch.empty_like(vectors), torch.zeros_like(table)
        to_bias = None if bias is None else torch.zeros_like(bias)
        right = table[target]
        lost = -vectors.mul(right).sum()
        if bias is not None:
            lost -= bias[target].sum()
        for start in range(0, count, rows):
            some = vectors[start : start + rows]
            logits = torch.mm(some, table.T, out=room[: len(some)])
            if bias is not None:
                logits += bias
            top = logits.amax(1)
            chances = torch.softmax(logits, 1, out=logits)
            # The highest logit less its log-probability is what all of a row's are divided by.
            lost += (top - chances.amax(1).log()).sum()
            torch.mm(chances, table, out=to_vectors[start : start + rows])
            if ctx.needs_input_grad[1]:
                to_table.addmm_(chances.T, some)
            if to_bias is not None:
                to_bias += chances.sum(0)
        to_vectors -= right
        if ctx.needs_input_grad[1]:
            to_table.index_add_(0, target, vectors, alpha=-1)
        if to_bias is not None:
            to_bias.index_add_(0, target, vectors.new_ones(count), alpha=-1)
        ctx.save_for_backward(to_vectors, to_table, to_bias)
        return lost / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        to_vectors, to_table, to_bias = ctx.saved_tensors
        each = grads[0] / len(to_vectors)
        return to_vectors * each, to_table * each, None, None if to_bias is None else to_bias * each
