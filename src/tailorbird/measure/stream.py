"""Calibration data on its way through a model, one block in memory at a time.

The inputs of a block come from the already compressed prefix: after a block was fitted it is run again with its
compressed weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model, Part
from tailorbird.measure.shell import Rows, Shell
from tailorbird.measure.states import States
from tailorbird.measure.statistics import Collector, Need, Stats


class Stream:
    """Hidden states in front of the next block.

    Args:
        model: the model; the stream fills and drops its blocks.
        batches: token ids (batch, length) each; for a module from memory its input tensors.
        rows: embedding rows by id, uncompressed or compressed.
        folder: where states go that are too large for memory.
    """

    def __init__(self, model: Model, batches: Sequence[Tensor], rows: Rows, folder: Path) -> None:
        self.model = model
        self.shell = Shell(model)
        self.tokens = sum(batch.shape[0] * (batch.shape[1] if batch.dim() > 1 else 1) for batch in batches)
        with torch.no_grad():
            self.states = States([self.shell.enter(batch, rows) for batch in batches], folder)

    @torch.no_grad()
    def measure(self, index: int, parts: Sequence[Part], needs: frozenset[Need]) -> dict[str, Stats]:
        """Statistics of the inputs of a block's parts; the block's original weights are read and left in place."""
        self.model.fill(self.model.blocks[index])
        modules = {part.name: self.model.module.get_submodule(part.name) for part in parts}
        with Collector(modules, needs, self.tokens) as collector:
            for i in range(len(self.states)):
                collector.next_batch()
                self.shell.run(index, self.states[i])
        return {part.name: collector.of(part.name) for part in parts}

    @torch.no_grad()
    def advance(self, index: int, compressed: Mapping[str, Tensor]) -> None:
        """Move the states behind a block whose parts have these weights (by part name), and let the block go."""
        name = self.model.blocks[index]
        self.model.fill(name, compressed)
        if self.model.anatomy.blocks:
            for i in range(len(self.states)):
                self.states[i] = self.shell.run(index, self.states[i])
        self.model.drop(name)

    @torch.no_grad()
    def head_inputs(self, needs: frozenset[Need]) -> Stats:
        """Statistics of what the head reads."""
        listener = nn.Identity()
        with Collector({"head": listener}, needs, self.tokens) as collector:
            for i in range(len(self.states)):
                collector.next_batch()
                listener(self.shell.leave(self.states[i]))
        return collector.of("head")
