"""BERT4Rec: bidirectional attention, trained to fill masked events (Sun et al., arXiv 1904.06690).

The prediction of what follows is the state of a mask behind the history. Loss over masked positions; a share of the
training rows masks only the last event, which is what will be asked.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tailorbird.zoo.recommenders.model import Shape
from tailorbird.zoo.recommenders.sasrec import Block, SASRec


class BERT4Rec(SASRec):
    """Attention both ways; `causal` is false, so a state sees later events."""

    name: ClassVar[str] = "bert4rec"
    losses: ClassVar[tuple[str, ...]] = ("ce",)
    causal = False
    extra_rows: ClassVar[int] = 1  # the mask's

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.blocks = nn.ModuleList(Block(shape, causal=False, inner=4, gelu=True) for _ in range(shape.layers))
        self.head = nn.Sequential(nn.Linear(shape.width, shape.width), nn.GELU(), nn.LayerNorm(shape.width))
        self.bias = nn.Parameter(torch.zeros(shape.items + 1))

    @property
    def mask(self) -> int:
        """The number that stands for a masked event."""
        return self.shape.items + 1

    def last(self, ids: Tensor) -> Tensor:
        """See `Recommender`: a mask is put behind the history."""
        room = ids[:, 1:] if ids.shape[1] == self.shape.length else ids
        masks = torch.full((ids.shape[0], 1), self.mask)
        return self.states(torch.cat([room, masks], dim=1))[:, -1]

    def output(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Recommender`."""
        vectors, table, _ = super().output(self.head(state))
        return vectors, table, self.bias
