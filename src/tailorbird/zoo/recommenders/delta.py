"""The gated delta rule: a memory of fixed size, written and read event by event at linear cost.

    S <- exp(g) S        u = b (v - k S)        S <- S + k^T u        o = q S / sqrt(d)

A write replaces what the memory holds under its key instead of adding to it. `recurrent` is the rule as it stands, an
event at a time; `chunked` gives the same numbers by a triangular solve a chunk (Yang et al., arXiv 2412.06464), which
is what training and long histories run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, b: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule, event by event.

    Args:
        q, k, v: (batch, heads, length, d); keys of length one, or the memory may grow without bound.
        b: (batch, heads, length), how much is written, 0 .. 1.
        g: likewise, logarithm of what is kept, at most 0 and finite.
        state: (batch, heads, d, d), keys by values; None is empty.

    Returns:
        What is read after every event, (batch, heads, length, d), and the memory after the last.
    """
    state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]) if state is None else state
    read = []
    for i in range(q.shape[2]):
        state = g[:, :, i, None, None].exp() * state
        key = k[:, :, i, :, None]
        update = b[:, :, i, None, None] * (v[:, :, i, None] - key.transpose(2, 3) @ state)
        state = state + key @ update
        read.append((q[:, :, i, None] @ state)[:, :, 0] / math.sqrt(q.shape[3]))
    return torch.stack(read, 2), state


def chunked(
    q: Tensor, k: Tensor, v: Tensor, b: Tensor, g: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """`recurrent` by chunks. Within one, u is the solution of (I + A) U = b V - (b exp(G) K) S, where G sums g and
    A(i, j) = b(i) exp(G(i) - G(j)) k(i) . k(j) below the diagonal; only the memory S runs from chunk to chunk."""
    batch, heads, length, width = q.shape
    state = q.new_zeros(batch, heads, width, v.shape[3]) if state is None else state
    more = -length % chunk
    q, k, v = (functional.pad(x, (0, 0, 0, more)).reshape(batch, heads, -1, chunk, x.shape[3]) for x in (q, k, v))
    b, g = (functional.pad(x, (0, more)).reshape(batch, heads, -1, chunk) for x in (b, g))
    total = g.double().cumsum(3)  # differences of long sums: float32 would round them
    lower = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~lower, -torch.inf).exp().to(q.dtype)
    since, until = total.exp().to(q.dtype)[..., None], (total[..., -1:] - total).exp().to(q.dtype)[..., None]
    a = (b[..., None] * between * (k @ k.transpose(3, 4))).tril(-1)
    right = torch.cat([b[..., None] * v, b[..., None] * since * k], 4)
    solved = torch.linalg.solve_triangular(a, right, upper=False, unitriangular=True)
    written, taken = solved[..., : v.shape[4]], solved[..., v.shape[4] :]
    reads, asked, kept = between * (q @ k.transpose(3, 4)), since * q, (until * k).transpose(3, 4)
    found = []
    for i in range(q.shape[2]):
        update = written[:, :, i] - taken[:, :, i] @ state
        found.append(asked[:, :, i] @ state + reads[:, :, i] @ update)
        state = since[:, :, i, -1:] * state + kept[:, :, i] @ update
    return torch.cat(found, 2)[:, :, :length] / math.sqrt(width), state
