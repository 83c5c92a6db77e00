"""A rotated model: other weights, the same function (QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406).

- Gains of norms go into the layers that read them; a norm without gains gives the same whether its input is rotated.
- R1 rotates the residual stream: embedding E R1, readers W R1, writers R1^T W, head W R1.
- R2 rotates the outputs of every value head and the inputs of the layer that reads them.

Weights are folded as they are read, in double precision, a few rows at a time where rows don't mix, so that nothing of
the pipeline differs from that of any other model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part, Wiring
from tailorbird.errors import UsageError
from tailorbird.transform.rotation import Rotation, random_rotation


@dataclass
class Fold:
    """What happens to one weight: columns times gains, then rotated; rows rotated."""

    gains: Tensor | None = None
    columns: tuple[Rotation, ...] = ()
    rows: tuple[Rotation, ...] = ()

    def of_rows(self, weight: Tensor) -> Tensor:
        """Some rows with gains and rotated columns, float64."""
        weight = weight.double() if self.gains is None else weight.double() * self.gains
        for rotation in self.columns:
            weight = rotation(weight)
        return weight

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """Outputs, along the last dimension, as the new weight gives them."""
        for rotation in self.rows:
            outputs = rotation(outputs)
        return outputs


class Rotated:
    """Weights of a model with rotations folded in; a `Source` that lays itself out like any checkpoint.

    Args:
        model: the original.
        residual: R1; None leaves the residual stream, norms and ends as they are.
        heads: R2 by block.

    Attributes:
        config: config.json; a tied head is untied where it takes in the gains of the last norm.
    """

    def __init__(self, model: Model, residual: Rotation | None, heads: Mapping[str, Rotation]) -> None:
        self.model, self.residual, self.heads, self.source = model, residual, heads, model.source
        self._norms: dict[str, float] = {}
        self._folds: dict[str, Fold] = {}
        self._last: tuple[str, Tensor] = "", torch.empty(0)
        wiring = wiring_of(model)
        for block in model.blocks:
            self._block(block, wiring)
        untied = residual is not None and self._ends(wiring)
        self.config: dict[str, Any] = dict(model.config) | ({"tie_word_embeddings": False} if untied else {})
        shapes = model.kept() | {part.tensor: part.shape for part in model.parts}
        if untied:
            shapes[f"{model.anatomy.head}.weight"] = model.parts[0].shape
        self.tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        self._parts = {part.tensor: part for part in model.parts}

    def read(self, name: str) -> Tensor:
        """One tensor; float32 where anything was folded in, else as it is stored."""
        path, _, leaf = name.rpartition(".")
        if path in self._norms:
            return torch.full_like(self.model.read(name), self._norms[path])
        if path in self._folds and leaf == "bias":
            return self._folds[path].of_outputs(self.model.read(name)).float()
        if path in self._folds:
            return self.read_rows(name, 0, self.tensors[name].shape[0])
        return self.model.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a weight."""
        fold, part = self._folds.get(name.removesuffix(".weight")), self._part(name)
        if fold is None:
            return self.model.read_rows(part, start, stop)
        if not fold.rows:
            return fold.of_rows(self.model.read_rows(part, start, stop)).float()
        if self._last[0] != name:
            whole = fold.of_rows(self.model.read_rows(part, 0, part.shape[0]))
            self._last = name, fold.of_outputs(whole.T).T.float().contiguous()
        return self._last[1][start:stop].clone()

    def _part(self, name: str) -> Part:
        return self._parts.get(name, self.model.parts[0])

    def _block(self, block: str, wiring: Wiring) -> None:
        if self.residual is not None:
            for norm, readers in wiring.norms.items():
                gains = self._gains(f"{block}.{norm}", wiring)
                for name in self._present(block, readers):
                    self._folds[name] = Fold(gains, (self.residual,))
            for name in self._present(block, wiring.writers):
                self._folds[name] = Fold(rows=(self.residual,))
        if block in self.heads:
            turn = self.heads[block]
            for value, output in wiring.values:
                before, after = (self._folds.setdefault(f"{block}.{name}", Fold()) for name in (value, output))
                before.rows, after.columns = (*before.rows, turn), (*after.columns, turn)

    def _ends(self, wiring: Wiring) -> bool:
        """Embedding, last norm and head; whether the head needs a weight of its own now."""
        assert self.residual is not None
        anatomy, turn = self.model.anatomy, (self.residual,)
        stored = self.model.read(f"{wiring.final_norm}.weight").double()
        # One gain for all channels commutes with every rotation.
        even = self.model.tied and bool((stored == stored[0]).all())
        self._folds[anatomy.embedding] = Fold(columns=turn)
        if not even:
            self._folds[anatomy.head] = Fold(self._gains(wiring.final_norm, wiring), turn)
        return self.model.tied and not even

    def _gains(self, norm: str, wiring: Wiring) -> Tensor:
        self._norms[norm] = wiring.unit
        return self.model.read(f"{norm}.weight").double() + 1 - wiring.unit

    def _present(self, block: str, names: tuple[str, ...]) -> Iterator[str]:
        own = {part.name for part in self.model.parts}
        return (f"{block}.{name}" for name in names if f"{block}.{name}" in own)


def rotated(model: Model, residual: bool = True, seed: int = 0) -> Model:
    """A model that computes the same with other weights.

    Args:
        model: the original.
        residual: rotate the residual stream too (R1), and not only the values of every head (R2).
        seed: of the random signs.

    Raises:
        UsageError: the family has no residual stream that can be rotated, or nothing is known about it.
    """
    wiring = wiring_of(model)
    if residual and not wiring.writers:
        raise UsageError(
            f"{model.source}: the residual stream of {model.anatomy.name} can't be rotated: what a layer adds to it "
            "goes through a norm with gains first, and these don't commute with a rotation",
            hint="rotate_residual=false rotates the values of every head only",
        )
    generator = torch.Generator().manual_seed(seed)
    stream = random_rotation(model.parts[0].shape[1], generator) if residual else None
    heads = {block: random_rotation(size, generator) for block, size in head_sizes(model).items()}
    return laid_out(model, stream, heads)


def laid_out(model: Model, residual: Rotation | None, heads: Mapping[str, Rotation]) -> Model:
    """The model with these rotations; a head that had to be untied is a copy, over which bits are not counted."""
    made = Model.open(Rotated(model, residual, heads))
    if model.tied and not made.tied:
        first, *others, head = made.parts
        made.parts = [first, *others, replace(head, copy_of=first.name)]
    return made


def wiring_of(model: Model) -> Wiring:
    """The wiring of a model's blocks.

    Raises:
        UsageError: nobody described it.
    """
    if model.anatomy.wiring is None:
        raise UsageError(
            f"{model.source}: nothing is known about how the layers of {model.anatomy.name} models hang together, so "
            "that nothing can be folded into them",
            hint="rotate=none leaves the model as it is; an Anatomy with a `wiring` would do",
        )
    return model.anatomy.wiring


def head_sizes(model: Model) -> dict[str, int]:
    """Outputs of a value head by block, for the blocks whose values are a layer of their own."""
    own = {part.name for part in model.parts}
    found = {}
    for block in model.blocks:
        for value, output in wiring_of(model).values:
            if f"{block}.{value}" in own and f"{block}.{output}" in own:
                owner = model.module.get_submodule(f"{block}.{value}".rpartition(".")[0])
                found[block] = int(owner.head_dim)  # type: ignore[arg-type]
    return found
