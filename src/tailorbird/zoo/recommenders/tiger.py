"""TIGER: items have semantic ids, and what follows is generated code by code (Rajput et al., arXiv 2305.05065).

Departures. The encoder is a causal transformer over events, an event being the sum of the vectors of its codes, so that
every event of a row is a prediction; the decoder reads the encoder's state after the last event, then the codes so far
(Lee et al., arXiv 2203.01941). The softmax of every code runs over those that lead to an item, so the probabilities of
all items sum to one. There is no token of the user.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.item_vectors import Vectors, item_vectors
from tailorbird.zoo.recommenders.model import Shape
from tailorbird.zoo.recommenders.quantize import Quantizer, semantic_ids
from tailorbird.zoo.recommenders.sasrec import Block, SASRec
from tailorbird.zoo.recommenders.trie import Trie, trie_of

LEVELS, SIZE = 4, 256  # codes an item, and values of each
BEAM = 64  # best beginnings of an id that are gone on with
DEPTH = 1  # blocks of the decoder


class Tiger(SASRec):
    """A SASRec whose table holds vectors of codes, with a decoder behind it. `codes` (items + 1, `LEVELS`) are the
    digits of the items' numbers until `name_items` gives them a meaning; row 0 is the pad's."""

    name: ClassVar[str] = "tiger"
    losses: ClassVar[tuple[str, ...]] = ("ce",)
    codes: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(dataclasses.replace(shape, items=LEVELS * SIZE))  # a row a code, and the pad's
        self.shape = shape
        digits = torch.arange(-1, shape.items)[:, None] // SIZE ** torch.arange(LEVELS - 1, -1, -1) % SIZE
        self.register_buffer("codes", digits)
        self.depths = nn.Parameter(torch.randn(LEVELS, shape.width) / math.sqrt(shape.width))
        self.decoder = nn.ModuleList(Block(shape, causal=True, inner=4, gelu=True) for _ in range(DEPTH))
        self.last_norm = nn.LayerNorm(shape.width)
        self.bias = nn.Parameter(torch.zeros(LEVELS, SIZE))
        self._trie: tuple[Tensor, Trie] | None = None

    def name_items(self, split: Split, vectors: Vectors, quantizer: Quantizer, seed: int) -> None:
        """Give the items of a data set their semantic ids; see `item_vectors` and `quantize`."""
        ids = semantic_ids(item_vectors(split, vectors), LEVELS, SIZE, quantizer, seed)
        self.codes[1:] = torch.from_numpy(ids)

    def check(self) -> None:
        """See `Recommender`."""
        self.trie()

    def trie(self) -> Trie:
        """The tree of the codes as they are now."""
        if self._trie is None or not torch.equal(self._trie[0], self.codes):
            self._trie = self.codes.clone(), trie_of(self.codes[1:], SIZE)
        return self._trie[1]

    def embed(self, ids: Tensor) -> Tensor:
        """See `SASRec`: the sum of the vectors of an item's codes."""
        rows = (self.codes[ids] + torch.arange(LEVELS) * SIZE + 1) * (ids != 0)[..., None]
        found: Tensor = self.items(rows).sum(-2) * math.sqrt(self.shape.width)
        return found

    def surprise(self, state: Tensor, target: Tensor) -> Tensor:
        """See `Recommender`."""
        return self.surprises(state, target).mean()

    def surprises(self, state: Tensor, target: Tensor) -> Tensor:
        """Minus the log-probabilities of items, int64 (n,), after states (n, width): sums over their codes."""
        trie, right = self.trie(), self.codes[target]
        decoded = self._decoded(state, right[:, :-1])
        lost = torch.zeros_like(target, dtype=state.dtype)
        for level in range(LEVELS):
            logits = self._logits(decoded[:, level], level, trie.path[target - 1, level])
            lost = lost + functional.cross_entropy(logits, right[:, level], reduction="none")
        return lost

    def scores(self, state: Tensor) -> Tensor:
        """See `Recommender`. Log-probabilities of the items a beam search of `BEAM` finds, -inf for all others; 0 for
        the pad. With a beam as wide as the tree these are all items."""
        flat, trie = state.reshape(-1, state.shape[-1]), self.trie()
        total, node = flat.new_zeros(len(flat), 1), torch.zeros(len(flat), 1, dtype=torch.int64)
        codes = torch.zeros(len(flat), 1, 0, dtype=torch.int64)
        for level in range(LEVELS):
            width = codes.shape[1]
            decoded = self._decoded(flat.repeat_interleave(width, 0), codes.flatten(0, 1))[:, -1]
            logits = self._logits(decoded, level, node.flatten())
            each = total[:, :, None] + logits.log_softmax(-1).view(-1, width, SIZE)
            total, place = each.flatten(1).topk(min(BEAM, width * SIZE))
            before, code = place // SIZE, place % SIZE
            node = trie.child(level, node.gather(1, before), code)
            codes = torch.cat([codes.gather(1, before[:, :, None].expand(-1, -1, level)), code[:, :, None]], 2)
        item = (trie.item[node] + 1) * total.isfinite()  # what is no item goes to the pad
        out = flat.new_full((len(flat), self.shape.items + 1), -math.inf).scatter(1, item, total)
        out[:, 0] = 0.0
        return out.view(*state.shape[:-1], self.shape.items + 1)

    def _decoded(self, state: Tensor, codes: Tensor) -> Tensor:
        """States (n, width) and the first codes of ids (n, given) to what the next code follows from, after the state
        and after every code; (n, given + 1, width)."""
        count = codes.shape[1] + 1
        rows = self.items(codes + torch.arange(count - 1) * SIZE + 1) * math.sqrt(self.shape.width)
        x = self.dropout(torch.cat([state[:, None], rows], 1) + self.depths[:count])
        mask = torch.ones(count, count, dtype=torch.bool).tril()
        for block in self.decoder:
            x = block(x, mask)
        found: Tensor = self.last_norm(x)
        return found

    def _logits(self, decoded: Tensor, level: int, node: Tensor) -> Tensor:
        """Scores of all values of a code (n, `SIZE`); -inf for those that lead from nodes, int64 (n,), to no item."""
        table = self.items.weight[1:].view(LEVELS, SIZE, -1)[level]
        return (decoded @ table.T + self.bias[level]).masked_fill(~self.trie().allowed[level][node], -math.inf)
