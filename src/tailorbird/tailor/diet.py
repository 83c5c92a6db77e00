"""DIET: a mask a user over frozen weights that all devices share (Fu et al., arXiv 2406.08804).

One encoder a layer reads the user's latest events; from its code come a score for every weight (element level) and one
for every row (filter level, from the codes of both layers), and their product decides: the best share of a layer stays,
the rest is zero. Only bits travel. Training goes through the choice with the gradient of a sigmoid (straight through).

Here the layers are the two of the head, trained before for everybody (`duet.Static`) and frozen. The paper masks the
whole backbone, and leaves open how scores become a mask and how layers see each other: both are our reading.

DIETING keeps one block that all layers share, weights and bias, and masks it anew for every layer: one generator makes
all masks, from the code of the events and a learned code of the layer. Trunk and device store the block once
(`head.BLOCK`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError
from tailorbird.tailor.duet import Heads
from tailorbird.tailor.head import BLOCK, NAMES, unrolled
from tailorbird.tailor.manifest import Manifest
from tailorbird.tailor.patch import Body, Patch

LAYERS = (NAMES[0], NAMES[2])


class Masked(nn.Module, ABC):
    """Item vectors of a window to a masked head a row; subclasses give the scores.

    Args:
        head: the frozen one.
        share: of the weights of a layer that stay.

    Raises:
        UsageError: a share that is none.
    """

    residual = True
    stored: tuple[str, ...] = NAMES

    def __init__(self, head: Mapping[str, Tensor], share: float = 0.5) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise UsageError(f"a share of {share}", hint="above 0, at most 1")
        width = len(head[NAMES[1]])
        self.width, self.kept = width, round(share * width * width)
        own = dict(head) | dict(zip(BLOCK, (head[name] for name in NAMES), strict=False))
        for name in self.stored:
            self.register_buffer(name.replace(".", "_"), own[name].detach().clone())
        self.into = nn.Linear(width, width)

    @abstractmethod
    def scores(self, vectors: Tensor, counts: Tensor) -> list[Tensor]:
        """The scores of every layer's weights, (batch, width, width) each; arguments as `Duet.codes`."""

    def masks(self, vectors: Tensor, counts: Tensor) -> list[Tensor]:
        """Ones and zeros of the shape of `scores`; exactly as many ones in every row of the batch."""
        return [straight_through(score, self.kept) for score in self.scores(vectors, counts)]

    def frozen(self) -> dict[str, Tensor]:
        """The head that is masked, as it is stored."""
        return {name: self.get_buffer(name.replace(".", "_")) for name in self.stored}

    def forward(self, vectors: Tensor, counts: Tensor) -> Heads:
        """See `Duet.forward`."""
        masks = dict(zip(LAYERS, self.masks(vectors, counts), strict=True))
        frozen = unrolled(self.frozen()).items()
        return {n: v * masks[n] if n in masks else v.expand(len(vectors), *v.shape) for n, v in frozen}

    def _read(self, vectors: Tensor) -> Tensor:
        return torch.tanh(self.into(vectors * math.sqrt(self.width)))

    def _elements(self, element: nn.Module, code: Tensor, filters: Tensor) -> Tensor:
        scores: Tensor = element(code).view(-1, self.width, self.width)
        return scores * torch.sigmoid(filters)[:, :, None]


class Diet(Masked):
    """A head with two layers of its own; see `Masked`."""

    def __init__(self, head: Mapping[str, Tensor], share: float = 0.5) -> None:
        super().__init__(head, share)
        width = self.width
        self.readers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in LAYERS)
        self.elements = nn.ModuleList(nn.Linear(width, width * width) for _ in LAYERS)
        self.filters = nn.ModuleList(nn.Linear(len(LAYERS) * width, width) for _ in LAYERS)

    def scores(self, vectors: Tensor, counts: Tensor) -> list[Tensor]:
        """See `Masked`."""
        read, last = self._read(vectors), (torch.arange(len(vectors)), (counts - 1).clamp(min=0))
        codes = [reader(read)[0][last] for reader in self.readers]
        both = torch.cat(codes, 1)
        return [
            self._elements(element, code, chosen(both))
            for element, chosen, code in zip(self.elements, self.filters, codes, strict=True)
        ]


class Dieting(Masked):
    """One block for all layers of the head; see `Masked`. Of a head with two layers it takes the first."""

    stored = BLOCK

    def __init__(self, head: Mapping[str, Tensor], share: float = 0.5) -> None:
        super().__init__(head, share)
        width = self.width
        self.reader = nn.GRU(width, width, batch_first=True)
        self.layers = nn.Parameter(torch.randn(len(LAYERS), width))
        self.element, self.filter = nn.Linear(width, width * width), nn.Linear(width, width)

    def scores(self, vectors: Tensor, counts: Tensor) -> list[Tensor]:
        """See `Masked`."""
        code = self.reader(self._read(vectors))[0][torch.arange(len(vectors)), (counts - 1).clamp(min=0)]
        return [self._elements(self.element, code + layer, self.filter(code + layer)) for layer in self.layers]


def straight_through(scores: Tensor, kept: int) -> Tensor:
    """1 for the `kept` best scores of every row of the batch, else 0; the gradient is the sigmoid's."""
    flat = scores.flatten(1)
    hard = torch.zeros_like(flat).scatter_(1, flat.topk(kept, 1).indices, 1.0).view_as(scores)
    soft = torch.sigmoid(scores)
    return hard + (soft - soft.detach())  # in brackets: exactly zero


def patch_of(masks: list[Tensor], row: int, manifest: Manifest) -> Patch:
    """The patch of one row of a batch: a bit a weight."""
    body: dict[str, Body] = {
        name: (np.packbits(mask[row].detach().numpy() > 0.5, bitorder="little"),)
        for name, mask in zip(LAYERS, masks, strict=True)
    }
    return Patch(manifest.trunk, "mask", body)
