"""GRU4Rec: a recurrent network over the events (Hidasi et al., arXiv 1511.06939), with a full softmax in place of its
sampled ranking losses."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.model import Recommender, Shape


class GRU4Rec(Recommender):
    """Item vectors, gated recurrent layers, a linear map back to the width of the items."""

    name: ClassVar[str] = "gru4rec"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.gru = nn.GRU(shape.width, 2 * shape.width, shape.layers, batch_first=True)
        self.out = nn.Linear(2 * shape.width, shape.width)
        self.dropout = Dropout(shape.dropout)

    def states(self, ids: Tensor) -> Tensor:
        """See `Recommender`. Pads on the left are moved to the right, where a causal network does not see them."""
        there, back = turned(ids)
        found, _ = self.gru(self.dropout(self.items(ids.gather(1, there))))
        found = found.gather(1, back[:, :, None].expand(-1, -1, found.shape[2]))
        out: Tensor = self.out(self.dropout(found))
        return out


def turned(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Where each place of rows whose pads stand behind comes from in `ids`, and the way back; int64 (batch, length)."""
    length, pads = ids.shape[1], (ids == 0).sum(1, keepdim=True)
    return (torch.arange(length) + pads) % length, (torch.arange(length) - pads) % length
