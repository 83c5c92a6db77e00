"""SASRec: self-attentive sequential recommendation (Kang and McAuley, arXiv 1808.09781).

Departures: normalisation before attention and feed-forward alike (the original normalises the queries only), positions
counted from the end of the history, so that one event means the same wherever the padding begins, and weights of items
and scores are one table, as in the original.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.model import Recommender, Shape


class SASRec(Recommender):
    """Causal attention over the latest events."""

    name: ClassVar[str] = "sasrec"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.positions = nn.Embedding(shape.length, shape.width)
        nn.init.normal_(self.positions.weight, std=1 / math.sqrt(shape.width))
        self.blocks = nn.ModuleList(Block(shape, causal=self.causal) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.dropout = Dropout(shape.dropout)

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of items (..., width); zeros for pads."""
        found: Tensor = self.items(ids) * math.sqrt(self.shape.width)
        return found

    def states(self, ids: Tensor) -> Tensor:
        """See `Recommender`."""
        places = torch.arange(ids.shape[1] - 1, -1, -1)
        x = self.dropout(self.embed(ids) + self.positions(places))
        mask = attention_mask(ids, causal=self.causal)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x)
        return out


class Block(nn.Module):
    """Attention and a feed-forward of the same width, each with a residual."""

    def __init__(self, shape: Shape, *, causal: bool, inner: int = 1, gelu: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = shape.heads, causal
        width = shape.width
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner * width), nn.Linear(inner * width, width)
        self.act = functional.gelu if gelu else functional.relu
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, length, width); mask bool (batch, 1, length, length), true where a query may look."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = self._dropped if self.training else functional.scaled_dot_product_attention
        mixed = attention(q, k, v, mask)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        inner = self.dropout(self.act(self.up(self.between(x))))
        out: Tensor = x + self.dropout(self.down(inner))
        return out

    def _dropped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attention with dropout of its weights; torch's own is slower with it."""
        logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        found: Tensor = self.dropout(logits.add_(torch.where(mask, 0.0, -torch.inf)).softmax(-1)) @ v
        return found


def attention_mask(ids: Tensor, *, causal: bool) -> Tensor:
    """Who may look at whom, bool (batch, 1, length, length): at events, not at pads, and at itself always (a row that
    sees nothing would be no number)."""
    length = ids.shape[1]
    seen = (ids != 0)[:, None, None, :] | torch.eye(length, dtype=torch.bool)
    return seen & torch.ones(length, length, dtype=torch.bool).tril() if causal else seen
