"""Calibration data on its way through a model, one block in memory at a time.

The inputs of a block come from the already compressed prefix: after a block was fitted it is run again with its
compressed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model, Part
from tailorbird.formats import Spec
from tailorbird.kernels import dense
from tailorbird.measure.block import Block
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
        reference: uncompressed embedding rows by id, where the hidden states of the uncompressed model are wanted too.
        drift: they are wanted in front of a block that is measured, and not only behind it.
        guide: what every token counts in the sums of a part's statistics, by part name, float32 (windows, length) over
            all batches; where a part is left out all count alike.
    """

    def __init__(
        self,
        model: Model,
        batches: Sequence[Tensor],
        rows: Rows,
        folder: Path,
        reference: Rows | None = None,
        drift: bool = False,
        guide: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.guide = model, guide or {}
        self.shell = Shell(model)
        self.tokens = sum(batch.shape[0] * (batch.shape[1] if batch.dim() > 1 else 1) for batch in batches)
        with torch.no_grad():
            self.states = States([self.shell.enter(batch, rows) for batch in batches], folder)
            self.targets: States | None = None
            self.before: States | None = None
            if reference:
                first = [self.shell.enter(batch, reference) for batch in batches]
                self.targets = States(first, folder / "reference")
                self.before = States([*first], folder / "before") if drift else None
            # A method can run the first window alone.
            runs = [run for batch in batches for run in (batch[:1], *self._windows(batch))]
            for run in {tuple(run.shape): run for run in runs}.values():
                self.shell.enter(run, rows)

    def _windows(self, batch: Tensor) -> Sequence[Tensor]:
        """What of a batch runs through a block at once: a language model's windows one by one, so that the processor's
        cache holds what is made on the way. In mixed precision two, for which weights are rounded once."""
        together = 2 if self.targets is None and dense.learning() != torch.float32 else 1
        return torch.split(batch, together) if self.model.anatomy.blocks else [batch]

    def _precision(self) -> AbstractContextManager[object]:
        """Statistics can bear mixed precision; differences from the uncompressed model, where they are wanted, may be
        smaller than what it changes."""
        return dense.mixed() if self.targets is None else nullcontext()

    def _run(self, index: int, batch: Tensor, replaced: Mapping[str, Tensor] | None = None) -> Tensor:
        return torch.cat([self.shell.run(index, window, replaced) for window in self._windows(batch)])

    @torch.no_grad()
    def aim(self, index: int, measured: bool = False) -> None:
        """Move the uncompressed model's states, where they are wanted, behind a block; where it is to be measured from
        them anyway (`measured`), that does it."""
        if self.targets is None or (measured and self.before):
            return
        self.model.fill(self.model.blocks[index])
        for i in range(len(self.targets)):
            self.targets[i] = self._run(index, (self.before or self.targets)[i])

    @torch.no_grad()
    def measure(self, index: int, parts: Sequence[Part], needs: frozenset[Need]) -> dict[str, Stats]:
        """Statistics of the inputs of a block's parts; the block's original weights are read and left in place."""
        self.model.fill(self.model.blocks[index])
        modules = {part.name: self.model.module.get_submodule(part.name) for part in parts}
        wiring = self.model.anatomy.wiring if "drift" in needs else None
        paired = {f"{self.model.blocks[index]}.{layer}" for layer in wiring.readers} if wiring else set()
        guide, at = {name: weights for name, weights in self.guide.items() if name in modules}, 0
        with Collector(modules, needs, self.tokens, paired) as collector:
            for i in range(len(self.states)):
                behind: list[Tensor] = []
                originals = self._windows(self.before[i]) if self.before else ()
                for window, original in zip_longest(self._windows(self.states[i]), originals):
                    if original is not None:
                        with collector.original():
                            behind.append(self.shell.run(index, original))
                    weighed = {name: weights[at : at + len(window)].flatten() for name, weights in guide.items()}
                    at += len(window)
                    with self._precision(), collector.batch(weighed):
                        self.shell.run(index, window)
                if self.targets and behind:
                    self.targets[i] = torch.cat(behind)
        return {part.name: collector.of(part.name) for part in parts}

    def block(
        self,
        index: int,
        parts: Sequence[Part],
        stats: Mapping[str, Stats],
        kept: Mapping[str, Tensor],
        seed: int,
        told: Callable[[int, int], None],
        planned: Mapping[str, Spec] | None = None,
    ) -> Block:
        """A block as a method sees it; `measure` has put its weights in place."""
        weights = {part.name: self.model.weight(part) for part in parts}
        forward = partial(self._run, index)
        return Block(
            index,
            parts,
            weights,
            kept,
            stats,
            self.states,
            self.targets or (),
            seed,
            forward,
            told,
            self.model.blocks[index],
            planned or {},
            self.model.anatomy.wiring,
        )

    @torch.no_grad()
    def advance(
        self, index: int, compressed: Mapping[str, Tensor], replaced: Mapping[str, Tensor] | None = None
    ) -> None:
        """Move the states behind a block whose parts have these weights (by part name), some other tensors `replaced`
        (by tensor name), and let the block go."""
        name = self.model.blocks[index]
        self.model.fill(name, compressed, replaced)
        if self.model.anatomy.blocks:
            for i in range(len(self.states)):
                with self._precision():
                    self.states[i] = self._run(index, self.states[i])
        self.model.drop(name)
        if self.before:
            self.before, self.targets = self.targets, self.before

    @torch.no_grad()
    def head_inputs(self, needs: frozenset[Need]) -> Stats:
        """Statistics of what the head reads."""
        listener = nn.Identity()
        with Collector({"head": listener}, needs, self.tokens, ("head",)) as collector:
            for i in range(len(self.states)):
                if self.before:
                    with collector.original():
                        listener(self.shell.leave(self.before[i]))
                with collector.batch():
                    listener(self.shell.leave(self.states[i]))
        return collector.of("head")
