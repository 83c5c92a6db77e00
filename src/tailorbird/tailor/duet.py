"""DUET: a user's latest events to the weights of a device's head, in one forward pass (Lv et al., arXiv 2209.05227).

A recurrent encoder reads the events, a small network makes a code z of its last state, and every tensor of the head is
an affine function of z. By default the trunk is trained before and frozen, the generators are parameters like any
others, and the head is added to the state, so that training begins at the trunk itself. `published=True` is what the
authors' program does: generators that no optimiser knows (random and fixed), a head in place of the state, trunk and
encoder trained together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tailorbird.tailor.head import BLOCK, NAMES, shapes, unrolled
from tailorbird.tasks.sequences.dataset import Ints

Heads = dict[str, Tensor]


class Duet(nn.Module):
    """Item vectors of a window to a head a row.

    Args:
        width: of item vectors, states and codes.
        published: see above.
    """

    def __init__(self, width: int, *, published: bool = False) -> None:
        super().__init__()
        self.width, self.residual = width, not published
        self.into = nn.Linear(width, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.code = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        sizes = [math.prod(shape) for shape in shapes(width).values()]
        weights, biases = [torch.randn(width, n) for n in sizes], [torch.randn(n) for n in sizes]
        self.weights: Sequence[Tensor] | nn.ParameterList
        self.biases: Sequence[Tensor] | nn.ParameterList
        if published:  # plain lists: no parameters, so neither trained nor saved
            self.weights, self.biases = [w.fmod(2) for w in weights], [b.fmod(2) for b in biases]
            return
        scales = [1 / math.sqrt(width), 0.0, 0.0, 0.0]  # the last layer begins at zero, so the head adds nothing
        self.weights = nn.ParameterList(w * s for w, s in zip(weights, scales, strict=True))
        self.biases = nn.ParameterList(b * s for b, s in zip(biases, scales, strict=True))

    def codes(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """Codes (batch, width) of item vectors (batch, length, width), padded behind; `counts` int64 (batch,) of them
        count."""
        states, _ = self.gru(torch.tanh(self.into(vectors * math.sqrt(self.width))))
        last = states[torch.arange(len(states)), (counts - 1).clamp(min=0)]
        found: Tensor = self.code(last)
        return found

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """See `codes`; every tensor of the head, (batch, *shape)."""
        return self.heads(self.codes(vectors, counts))

    def heads(self, codes: Tensor) -> Heads:
        """Codes (batch, width) to heads."""
        scale = 1.0 if not self.residual else 1 / math.sqrt(self.width)
        pairs = zip(self.weights, self.biases, shapes(self.width).items(), strict=True)
        return {name: (codes @ (w * scale) + b).reshape(-1, *shape) for w, b, (name, shape) in pairs}


class Static(nn.Module):
    """The same head for everybody: what the parameters of a head are worth without tailoring.

    Args:
        width: of states.
        tied: both layers are one. It begins near the trunk alone, where others begin at it: a last layer of zeros would
            make the first one zero too, and nothing could be learnt.
    """

    residual = True

    def __init__(self, width: int, *, tied: bool = False) -> None:
        super().__init__()
        self.names = BLOCK if tied else NAMES
        start = [torch.randn(*shape) / math.sqrt(width) for shape in [*shapes(width).values()][: len(self.names)]]
        scales = (0.1, 0.0) if tied else (1.0, 0.0, 0.0, 0.0)
        self.values = nn.ParameterList(value * scale for value, scale in zip(start, scales, strict=True))

    def head(self) -> Heads:
        """Its tensors by name."""
        return unrolled(dict(zip(self.names, self.values, strict=True)))

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """See `Duet.forward`."""
        return {n: v.expand(len(vectors), *v.shape) for n, v in self.head().items()}


def through(state: Tensor, heads: Mapping[str, Tensor], *, residual: bool = True) -> Tensor:
    """States (batch, width), or (batch, candidates, width), through a head a row; `head.mapped` with gradients."""
    w0, b0, w1, b1 = (heads[name] for name in NAMES)
    rows = state[:, None] if state.dim() == 2 else state
    inner = torch.tanh(torch.baddbmm(b0[:, None], rows, w0.transpose(1, 2)))
    made = torch.baddbmm(rows + b1[:, None] if residual else b1[:, None], inner, w1.transpose(1, 2))
    return made.view_as(state)


def behind(histories: list[Ints], length: int) -> tuple[Tensor, Tensor]:
    """The latest `length` items of histories, padded with 0 behind, int64 (batch, length), and how many there are."""
    ids, counts = np.zeros((len(histories), length), np.int64), np.zeros(len(histories), np.int64)
    for row, history in enumerate(histories):
        kept = history[-length:]
        ids[row, : len(kept)], counts[row] = kept, len(kept)
    return torch.from_numpy(ids), torch.from_numpy(counts)
