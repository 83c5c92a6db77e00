"""LightGCN: vectors of users and items spread over the graph of who met what (He et al., arXiv 2002.02126).

    e(k+1) = D^-1/2 A D^-1/2 e(k)        the vector of a node is the mean of its e(0) .. e(layers)

A history is folded in: its state is the mean of its items' spread vectors. So users who were not there in training
score without a step of it, and those who were are treated alike: their own vectors serve training only. The order of
events means nothing to this model. Trained by a softmax over the catalogue, or as published by BPR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender, Shape


@dataclass(frozen=True)
class GraphShape(Shape):
    """Sizes of LightGCN; it has no heads and no dropout.

    Attributes:
        length: events of a history that are folded in, the latest ones.
        layers: steps over the graph.
        users: in training.
    """

    length: int = 1000
    layers: int = 3
    users: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers of users that can't be.

        Raises:
            UsageError: see above, and `Shape`.
        """
        super().__post_init__()
        if not 1 <= self.users <= 2**24:
            raise UsageError(f"a graph can't have {self.users} users", hint="1 and more")


class LightGCN(Recommender):
    """Item vectors spread over the graph; `vectors` are those after training, which is all that scoring reads."""

    name: ClassVar[str] = "lightgcn"
    sizes: ClassVar[type[Shape]] = GraphShape
    losses: ClassVar[tuple[str, ...]] = ("ce", "bpr")
    vectors: Tensor

    def __init__(self, shape: GraphShape) -> None:
        super().__init__(shape)
        self.users = nn.Embedding(shape.users, shape.width)
        nn.init.normal_(self.users.weight, std=0.1)
        self.register_buffer("vectors", self.items.weight.detach().clone())

    @classmethod
    def sizes_of(cls, split: Split) -> dict[str, Any]:
        """See `Recommender`."""
        return {"items": split.data.count, "users": split.data.users}

    def states(self, ids: Tensor) -> Tensor:
        """See `Recommender`: the mean of what came so far."""
        counts = (ids != 0).cumsum(1).clamp(min=1)
        return self.vectors[ids].cumsum(1) / counts[:, :, None]

    def output(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Recommender`."""
        return state, self.vectors, None

    def graph(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Of the training events.

        Returns:
            The normalised adjacency, sparse (users + items + 1)^2, users first; user and item of every edge, int64.
        """
        users, nodes = split.data.users, split.data.users + split.data.count + 1
        each = [split.train(user) for user in range(users)]
        pairs = np.stack([np.repeat(np.arange(users), list(map(len, each))), np.concatenate(each)])
        user, item = torch.from_numpy(np.unique(pairs, axis=1))
        both = torch.stack([torch.cat([user, item + users]), torch.cat([item + users, user])])
        degree = torch.bincount(both[0], minlength=nodes).clamp(min=1).float()
        values = (degree[both[0]] * degree[both[1]]).rsqrt()
        return torch.sparse_coo_tensor(both, values, (nodes, nodes), check_invariants=True).coalesce(), user, item

    def propagated(self, graph: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of all users (users, width) and items (items + 1, width), with gradients."""
        spread = [torch.cat([self.users.weight, self.items.weight])]
        for _ in range(self.shape.layers):
            spread.append(torch.sparse.mm(graph, spread[-1]))
        mean = torch.stack(spread).mean(0)
        return mean[: len(self.users.weight)], mean[len(self.users.weight) :]

    @torch.no_grad()
    def settle(self, graph: Tensor) -> None:
        """Keep the items' vectors as they are now for scoring."""
        self.vectors.copy_(self.propagated(graph)[1])
