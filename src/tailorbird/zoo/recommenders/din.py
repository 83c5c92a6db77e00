"""DIN: a history read anew for every candidate (Zhou et al., arXiv 1706.06978).

By default attention is a scaled product under a softmax with one more place that holds nothing, so that a history with
nothing like the candidate gives a weak state (the paper drops the softmax for that); events have positions counted from
the end; and a score is the product of the candidate's state and its vector, so that a head can map the states.
`form=published` is the paper's: an attention unit of its own without softmax, no positions, a tower with Dice to one
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.model import Recommender, Shape, Turn

AT_ONCE = 2**14  # states, when all candidates are asked for: few enough to stay in the cache
UNIT, TOWER = 36, (200, 80)  # inner sizes of the published form


@dataclass(frozen=True)
class DINShape(Shape):
    """Sizes of DIN; it has one layer and one head, whatever `layers` and `heads` say.

    Attributes:
        form: ``dot`` or ``published``.
    """

    form: Literal["dot", "published"] = "dot"

    def __post_init__(self) -> None:
        """Refuse an unknown form.

        Raises:
            UsageError: see above, and `Shape`.
        """
        super().__post_init__()
        if self.form not in ("dot", "published"):
            raise UsageError(f"DIN has no form {self.form!r}", hint="dot or published")


class DIN(Recommender):
    """Target attention. A state belongs to a history and a candidate."""

    name: ClassVar[str] = "din"
    sizes: ClassVar[type[Shape]] = DINShape
    losses: ClassVar[tuple[str, ...]] = ("ce", "bce")
    shape: DINShape

    def __init__(self, shape: DINShape) -> None:
        super().__init__(shape)
        width = shape.width
        self.dropout = Dropout(shape.dropout)
        if shape.form == "published":
            self.unit = nn.Sequential(nn.Linear(4 * width, UNIT), Dice(UNIT), nn.Linear(UNIT, 1))
            inner = [nn.Sequential(nn.Linear(a, b), Dice(b)) for a, b in ((2 * width, TOWER[0]), TOWER)]
            self.tower = nn.Sequential(*inner, nn.Linear(TOWER[1], 1))
            return
        self.positions = nn.Embedding(shape.length, width)
        nn.init.normal_(self.positions.weight, std=1 / math.sqrt(width))
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.read, self.target, self.down = (nn.Linear(width, width) for _ in range(3))

    def towards(self, ids: Tensor, among: Tensor) -> Tensor:
        """A state for every candidate.

        Args:
            ids: int64 (batch, length), padded with 0 on the left.
            among: int64 (candidates,) or (batch, candidates).

        Returns:
            (batch, candidates, width).
        """
        target = self.items(among)
        if self.shape.form == "published":
            return self._summed(ids, target.expand(len(ids), *target.shape[-2:]))
        ages = torch.arange(ids.shape[1] - 1, -1, -1)
        events = self.dropout(self.items(ids) * math.sqrt(self.shape.width) + self.positions(ages))
        keys, values = (_with_nothing(layer(events)) for layer in (self.key, self.value))
        logits = self.query(target) @ (keys / math.sqrt(self.shape.width)).transpose(1, 2)
        away = functional.pad(ids == 0, (0, 1), value=False)
        pooled = logits.masked_fill_(away[:, None], -torch.inf).softmax(2) @ values
        found: Tensor = pooled + self.down(self.dropout(torch.relu(self.read(pooled) + self.target(target))))
        return found

    def _summed(self, ids: Tensor, target: Tensor) -> Tensor:
        events = self.items(ids)[:, None].expand(-1, target.shape[1], -1, -1)
        asked = target[:, :, None].expand_as(events)
        weights = self.unit(torch.cat([events, asked, events - asked, events * asked], 3))[..., 0]
        found: Tensor = ((weights * (ids != 0)[:, None])[:, :, None] @ events)[:, :, 0]
        return found

    def logits(self, ids: Tensor, among: Tensor, turn: Turn | None = None) -> Tensor:
        """Scores of candidates, (batch, candidates); see `towards` and `Recommender.ranked`."""
        state, target = self.towards(ids, among), self.items(among)
        if self.shape.form == "published":
            one: Tensor = self.tower(torch.cat([state, target.expand_as(state)], 2))
            return one[..., 0]
        found: Tensor = (turn(state) if turn else state) * target
        return found.sum(2)

    def ranked(self, ids: Tensor, turn: Turn | None = None) -> Tensor:
        """See `Recommender`: the catalogue in blocks."""
        blocks = torch.split(torch.arange(self.shape.items + 1), max(1, AT_ONCE // max(1, len(ids))))
        return torch.cat([self.logits(ids, block, turn) for block in blocks], 1)

    def states(self, ids: Tensor) -> Tensor:
        """The state after every event towards every item, (batch, length, items + 1, width): for small catalogues."""
        ends = range(1, ids.shape[1] + 1)
        return torch.stack([self.last(ids[:, :end]) for end in ends], 1)

    def last(self, ids: Tensor) -> Tensor:
        """The state towards every item, (batch, items + 1, width)."""
        return self.towards(ids, torch.arange(self.shape.items + 1))

    def scores(self, state: Tensor) -> Tensor:
        """See `last`; (batch, items + 1, width) to (batch, items + 1)."""
        return (state * self.items.weight).sum(-1)

    def surprise(self, state: Tensor, target: Tensor) -> Tensor:
        """See `Recommender`; a state towards every item leaves no product with a table."""
        return functional.cross_entropy(self.scores(state)[:, 1:], target - 1)

    def summary(self, ids: Tensor) -> Tensor:
        """See `Recommender`: the state towards the latest event."""
        return self.towards(ids, ids[:, -1:])[:, 0]


def _with_nothing(events: Tensor) -> Tensor:
    """(batch, length, width) and one more place of zeros: what attention has where no event is like the candidate."""
    return functional.pad(events, (0, 0, 0, 1))


class Dice(nn.Module):
    """A leaky step whose place follows the mean and variance of its inputs (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.slope = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        gate = torch.sigmoid(self.norm(x.reshape(-1, x.shape[-1])).view_as(x))
        return gate * x + (1 - gate) * self.slope * x
