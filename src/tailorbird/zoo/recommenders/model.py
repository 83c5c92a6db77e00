"""What recommenders share: a table of items, a state after every event, and scores as products of the two."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.method import read_options
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.catalogue import cross_entropy

Turn = Callable[[Tensor], Tensor]
MAX_LAYERS = 1024


@dataclass(frozen=True)
class Shape:
    """Sizes of a recommender.

    Attributes:
        items: number of items; they are numbered from 1, and 0 pads.
        length: events of a history that are looked at, the latest ones.
        width: numbers of an item's vector and of a state.
        layers: blocks.
        heads: of an attention.
        dropout: while training.
    """

    items: int
    length: int = 50
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse sizes no model can have.

        Raises:
            UsageError: a size below one, a width the heads do not divide, a dropout that is no share.
        """
        sizes = (self.items, self.length, self.width, self.layers, self.heads)
        good = 1 <= min(sizes) <= max(sizes) <= 2**24 and self.layers <= MAX_LAYERS
        if not good or self.width % self.heads or not 0 <= self.dropout < 1:
            hint = f"sizes of 1 and more, at most {MAX_LAYERS} layers; heads must divide the width"
            raise UsageError(f"a recommender can't have {self}", hint=hint)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


class Recommender(nn.Module, ABC):
    """A model over sequences of items.

    Subclasses give `states`. Row 0 of the table is the pad's and stays zero.

    Attributes:
        name: of the kind.
        sizes: its `Shape`.
        losses: what it can be trained with, the usual one first.
        extra_rows: of the table, behind the items'.
        timed: whether it reads the times of events.
        causal: whether a state sees its past only.
    """

    name: ClassVar[str]
    sizes: ClassVar[type[Shape]] = Shape
    losses: ClassVar[tuple[str, ...]] = ("ce", "gbce")
    extra_rows: ClassVar[int] = 0
    timed: ClassVar[bool] = False
    causal: bool = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.items + 1 + self.extra_rows, shape.width, padding_idx=0)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(shape.width))
        with torch.no_grad():
            self.items.weight[0].zero_()

    @classmethod
    def sizes_of(cls, split: Split) -> dict[str, Any]:
        """Those fields of its `Shape` that follow from the data; of events, only those of training may count."""
        return {"items": split.data.count}

    @abstractmethod
    def states(self, ids: Tensor) -> Tensor:
        """The state after every event.

        Args:
            ids: int64 (batch, length), padded with 0 on the left.

        Returns:
            float32 (batch, length, width); at pads anything finite.
        """

    def last(self, ids: Tensor) -> Tensor:
        """The state that predicts what follows the histories; ids (batch, length) to (batch, width)."""
        return self.states(ids)[:, -1]

    def summary(self, ids: Tensor) -> Tensor:
        """One state a history, (batch, width), whatever is asked about: what requests for patches go by."""
        return self.last(ids)

    def output(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What scores are made of: vectors of the states (..., width), the table they are multiplied with
        (items + 1, width), and what is added to the products (items + 1,), if anything is."""
        return state, self.items.weight[: self.shape.items + 1], None

    def scores(self, state: Tensor) -> Tensor:
        """States (..., width) to a score for every item (..., items + 1), the pad's first."""
        return functional.linear(*self.output(state))

    def ranked(self, ids: Tensor, turn: Turn | None = None) -> Tensor:
        """Scores after histories, (batch, items + 1); `turn` maps the states before, as a head does."""
        state = self.last(ids)
        return self.scores(turn(state) if turn else state)

    def surprise(self, state: Tensor, target: Tensor) -> Tensor:
        """The mean of minus the log-probabilities of the right items, int64 (n,), after states (n, width); the
        catalogue is whole, and the pad takes no part."""
        vectors, table, bias = self.output(state)
        return cross_entropy(vectors, table[1:], target - 1, None if bias is None else bias[1:])

    def check(self) -> None:
        """Refuse tensors of the right shapes that are still none of such a model.

        Raises:
            ModelError: what is wrong with them.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, as numbers."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def window(self, histories: Sequence[Ints]) -> Tensor:
        """Histories of any lengths as int64 (batch, length of the longest, at most `length`), padded on the left."""
        return padded(histories, self.shape.length)

    @torch.no_grad()
    def score(self, histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        """A `Scorer`, see `tasks.sequences.ranking`."""
        self.eval()
        found: npt.NDArray[np.float32] = self.ranked(self.window(histories)).numpy()
        return found


def padded(histories: Sequence[Ints], length: int) -> Tensor:
    """The latest `length` items of every history, padded with 0 on the left; int64 (batch, longest)."""
    longest = max(1, min(length, max((len(history) for history in histories), default=1)))
    out = np.zeros((len(histories), longest), np.int64)
    for row, history in zip(out, histories, strict=True):
        kept = history[-longest:]
        if len(kept):
            row[-len(kept) :] = kept
    return torch.from_numpy(out)


def shape_of(data: Mapping[str, Any], kind: type[Shape] = Shape) -> Shape:
    """`Shape.to_json` read back.

    Raises:
        UsageError: a field is unknown or of the wrong type, or the sizes are impossible.
    """
    return kind(**read_options(kind, "a recommender", data))
