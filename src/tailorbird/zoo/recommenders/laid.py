"""Trunks laid out as the compression pipeline wants a model: a table of items that is embedding and head at once, and
blocks of linear layers. What is packed are those; norms, biases and positions stay as they are.

A SASRec is so already. A GRU's weights become two linear layers a recurrent layer, and its gates are computed here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.anatomy import Anatomy
from tailorbird.errors import ModelError
from tailorbird.zoo.names import trained_name
from tailorbird.zoo.recommenders.gru4rec import GRU4Rec, turned
from tailorbird.zoo.recommenders.model import Recommender, Shape
from tailorbird.zoo.recommenders.sasrec import SASRec

ANATOMY = Anatomy(
    name="recommender", model_types=(), blocks="blocks", embedding="items", head="head",
    roles={"qkv": "attention", "out": "attention", "up": "mlp", "down": "mlp"},
)  # fmt: skip


class _Laid(Recommender):
    """What both have: a head of the items' own weights, and answers from packed layers."""

    anatomy: ClassVar[Anatomy] = ANATOMY
    config: ClassVar[Any] = SimpleNamespace(tie_word_embeddings=True)

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.head = nn.Linear(shape.width, shape.items + 1, bias=False)
        self.head.weight = self.items.weight

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        """Scores after every event, (batch, length, items + 1)."""
        found: Tensor = self.head(self.states(input_ids))
        return found

    def scores(self, state: Tensor) -> Tensor:
        """See `Recommender`: one product with the head, packed or not."""
        found: Tensor = self.head(state)
        return found

    def surprise(self, state: Tensor, target: Tensor) -> Tensor:
        """See `Recommender`: a packed head has no table to multiply with row by row."""
        return functional.cross_entropy(self.scores(state)[:, 1:], target - 1)

    def tensors(self) -> dict[str, Tensor]:
        """See `Recommender`; packed weights are unpacked."""
        found = {name: tensor for name, tensor in self.named_parameters() if not name.startswith("head.")}
        for name, layer in self.named_modules():
            if name != "head" and (packed := getattr(layer, "packed", None)) is not None:
                found[f"{name}.weight"] = packed.dequantize()
        return {trained_name(name, self.shape.layers): tensor.detach() for name, tensor in found.items()}


class LaidSASRec(_Laid, SASRec):
    """A SASRec with a head."""


class Cell(nn.Module):
    """A gated recurrent layer, (batch, length, columns) to (batch, length, width): torch's, with its two products as
    linear layers."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.into, self.over = nn.Linear(columns, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        """All events, one after the other."""
        state = x.new_zeros(len(x), self.over.in_features)
        states = []
        for now in self.into(x).unbind(1):
            (r, z, new), (kept_r, kept_z, kept) = now.chunk(3, 1), self.over(state).chunk(3, 1)
            update = torch.sigmoid(z + kept_z)
            state = (1 - update) * torch.tanh(new + torch.sigmoid(r + kept_r) * kept) + update * state
            states.append(state)
        return torch.stack(states, 1)


class LaidGRU4Rec(_Laid):
    """A GRU4Rec of such layers."""

    name: ClassVar[str] = "gru4rec"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        inner = [shape.width, *[2 * shape.width] * shape.layers]
        cells = [Cell(columns, 2 * shape.width) for columns in inner[:-1]]
        self.blocks = nn.ModuleList([*cells, nn.Linear(2 * shape.width, shape.width)])

    def states(self, ids: Tensor) -> Tensor:
        """See `GRU4Rec.states`."""
        there, back = turned(ids)
        x = self.items(ids.gather(1, there))
        for block in self.blocks:
            x = block(x)
        found: Tensor = x.gather(1, back[:, :, None].expand(-1, -1, x.shape[2]))
        return found


_KINDS: dict[type[Recommender], type[_Laid]] = {SASRec: LaidSASRec, GRU4Rec: LaidGRU4Rec}


def empty(name: str, shape: Shape) -> Recommender:
    """A trunk laid out, with weights of no meaning.

    Raises:
        ModelError: there is no such layout for this recommender.
    """
    for kind, made in _KINDS.items():
        if kind.name == name:
            return made(shape).eval()
    raise ModelError(f"a {name} can't be compressed", hint=f"there are: {', '.join(kind.name for kind in _KINDS)}")


def laid(model: Recommender) -> Recommender:
    """A trained trunk laid out, with the same states and scores."""
    made, trained = empty(model.name, model.shape), model.state_dict()
    with torch.no_grad():
        for name, tensor in made.named_parameters():  # the head is the items
            tensor.copy_(trained[trained_name(name, model.shape.layers)])
    return made.requires_grad_(False)
