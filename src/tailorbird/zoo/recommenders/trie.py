"""The semantic ids of all items as a tree: which codes may follow which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.errors import ModelError


@dataclass(frozen=True)
class Trie:
    """Nodes of a level are numbered in the order of the codes that lead to them; the root is node 0 of level 0.

    Attributes:
        allowed: a level: bool (nodes, size): codes that some item goes on with.
        keys: a level: int64, sorted: node * size + code for every code that is allowed; its place is the node of the
            next level that it leads to.
        path: int64 (items, levels): the node that every code of an item is chosen at.
        item: int64 (items,): the item of every node of the last level, from 0.
    """

    allowed: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    path: Tensor
    item: Tensor

    def child(self, level: int, node: Tensor, code: Tensor) -> Tensor:
        """The nodes of the next level that codes lead to; where a code is not allowed, any node of it."""
        size = self.allowed[level].shape[1]
        return torch.searchsorted(self.keys[level], node * size + code).clamp_max(len(self.keys[level]) - 1)


def trie_of(codes: Tensor, size: int) -> Trie:
    """The tree of codes, int64 (items, levels).

    Raises:
        ModelError: a code out of range, or two items with the same codes.
    """
    if bool(((codes < 0) | (codes >= size)).any()):
        raise ModelError(f"semantic ids lie between 0 and {size - 1}", hint="train the model again")
    node = torch.zeros(len(codes), dtype=torch.int64)
    allowed, keys, path = [], [], []
    for level in range(codes.shape[1]):
        found, after = torch.unique(node * size + codes[:, level], return_inverse=True)
        mask = torch.zeros(int(node.max()) + 1, size, dtype=torch.bool)
        mask.view(-1)[found] = True
        path.append(node)
        allowed.append(mask)
        keys.append(found)
        node = after
    if len(keys[-1]) != len(codes):
        raise ModelError("two items have the same semantic id", hint="train the model again")
    return Trie(tuple(allowed), tuple(keys), torch.stack(path, 1), torch.argsort(node))
