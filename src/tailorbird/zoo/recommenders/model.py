"""What recommenders share: a table of items, a state after every event, and scores as products of the two."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import Ints


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
        if min(sizes) < 1 or max(sizes) > 2**24 or self.width % self.heads or not 0 <= self.dropout < 1:
            raise UsageError(
                f"a recommender can't have {self}", hint="sizes of 1 and more; heads must divide the width"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


class Recommender(nn.Module):
    """A model over sequences of items.

    Subclasses give `states`. Row 0 of the table is the pad's and stays zero.
    """

    name: ClassVar[str]
    causal: ClassVar[bool] = True
    extra_rows: ClassVar[int] = 0

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.items + 1 + self.extra_rows, shape.width, padding_idx=0)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(shape.width))
        with torch.no_grad():
            self.items.weight[0].zero_()

    def states(self, ids: Tensor) -> Tensor:
        """The state after every event.

        Args:
            ids: int64 (batch, length), padded with 0 on the left.

        Returns:
            float32 (batch, length, width); at pads anything finite.
        """
        raise NotImplementedError

    def last(self, ids: Tensor) -> Tensor:
        """The state that predicts what follows the histories; ids (batch, length) to (batch, width)."""
        return self.states(ids)[:, -1]

    def scores(self, state: Tensor) -> Tensor:
        """States (..., width) to a score for every item (..., items + 1), the pad's first."""
        return state @ self.items.weight[: self.shape.items + 1].T

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
        found: npt.NDArray[np.float32] = self.scores(self.last(self.window(histories))).numpy()
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


def shape_of(data: Mapping[str, Any]) -> Shape:
    """`Shape.to_json` read back.

    Raises:
        UsageError: a field is unknown or of the wrong type.
    """
    fields = {field.name: field.type for field in dataclasses.fields(Shape)}
    right: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float)}
    for name, value in data.items():
        if name not in fields or isinstance(value, bool) or not isinstance(value, right[str(fields[name])]):
            raise UsageError(f"{name}={value!r} is no size of a recommender", hint=f"there are: {', '.join(fields)}")
    return Shape(**data)
