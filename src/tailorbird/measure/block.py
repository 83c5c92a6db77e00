"""`Block`: one block of a model as a method sees it: tensors in, tensors out, nothing of files or modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tailorbird.anatomy import Part, Wiring
from tailorbird.formats import Spec
from tailorbird.measure.statistics import Stats


class Batches(Protocol):
    """Hidden states, batch by batch; those that are not in memory are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


@dataclass(frozen=True)
class Transformed:
    """A block in an equivalent form.

    Attributes:
        tensors: in place of its own, by tensor name; none where it stays as it is.
        scales: what the columns of its parts' weights were multiplied by, and so their inputs divided by, by part name,
            float32 (cols,); what is left out reads what it did.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def stats(self, of: Mapping[str, Stats]) -> dict[str, Stats]:
        """The statistics of the parts' inputs in this form, from those before; parts that shared them and are scaled
        alike go on sharing."""
        found, made = dict(of), dict[tuple[int, int], Stats]()
        for name in self.scales.keys() & of.keys():
            stats, s = of[name], self.scales[name]
            key = (id(stats), id(s))
            if key not in made:
                made[key] = stats.divided(s)
            found[name] = made[key]
        return found


@dataclass(frozen=True)
class Block:
    """What `Method.transform` and `Method.tune` are given.

    Attributes:
        index: place among the blocks.
        parts: what is compressed.
        weights: by part name, float32 (rows, cols); read only.
        kept: the other tensors (norm gains, biases) by tensor name, in the dtype they are stored in; read only.
        stats: by part name, as `Method.needs` asks.
        inputs: what comes out of the compressed prefix, float32 (batch, length, width) each.
        targets: what the uncompressed model has behind this block, for the same batches; empty unless `Method.needs`
            has ``reference``.
        seed: of every random choice inside this block.
        forward: the block on hidden states, with some of its tensors (by tensor name) replaced.
        told: told how many steps are done, and of how many, while the method works.
        name: path of the block, with which the names of its parts begin.
        planned: the formats the plan gives its parts, by part name, before `Method.decide`.
        wiring: how its layers hang together; None where nobody said.
    """

    index: int
    parts: Sequence[Part]
    weights: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    stats: Mapping[str, Stats]
    inputs: Batches
    targets: Batches
    seed: int
    forward: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    told: Callable[[int, int], None] = lambda done, total: None
    name: str = ""
    planned: Mapping[str, Spec] = field(default_factory=dict)
    wiring: Wiring | None = None

    def run(
        self,
        i: int,
        weights: Mapping[str, Tensor] | None = None,
        *,
        kept: Mapping[str, Tensor] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """The block's output for batch `i`, differentiable in every tensor given.

        Args:
            i: which batch.
            weights: in place of the parts' own, by part name; parts that are left out keep theirs.
            kept: in place of other tensors, by tensor name.
            inputs: hidden states in place of the batch's own, of the same shape or that of its first window.

        Returns:
            float32 (batch, length, width).
        """
        replaced = {f"{name}.weight": weight for name, weight in (weights or {}).items()}
        replaced |= {name: tensor.float() for name, tensor in (kept or {}).items()}
        return self.forward(self.inputs[i] if inputs is None else inputs, replaced)

    def generator(self) -> torch.Generator:
        """A fresh source of random numbers, the same each time."""
        return torch.Generator().manual_seed(self.seed)
