"""A model with some parts in other formats, rounded on the fly: nothing of it is ever in memory or on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.anatomy.model import Shaped

Rows = Callable[[int, int], Tensor]
"""Rows start..stop of a part, float32."""


class _Patched:
    """The tensors of a model by their names in it, some of them others."""

    def __init__(self, model: Model, changed: Mapping[str, Rows], kept: Mapping[str, Tensor]) -> None:
        self.model, self.changed, self.kept = model, changed, kept
        self.parts = {part.tensor: part for part in model.parts}

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """Shapes."""
        return {name: _Shape(shape) for name, shape in self.model.kept().items()} | {
            name: _Shape(part.shape) for name, part in self.parts.items()
        }

    def read(self, name: str) -> Tensor:
        """One tensor."""
        if name in self.kept:
            return self.kept[name]
        part = self.parts.get(name)
        return self.model.read(name) if part is None else self.read_rows(name, 0, part.shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a part."""
        part = self.parts[name]
        change = self.changed.get(part.name)
        return self.model.read_rows(part, start, stop) if change is None else change(start, stop)


class _Shape:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def patched(model: Model, changed: Mapping[str, Rows], kept: Mapping[str, Tensor] | None = None) -> Model:
    """The model with other weights for some parts, by name, and other tensors beside them, by tensor name."""
    module = copy.deepcopy(model.module)
    return Model(module, model.anatomy, _Patched(model, changed, kept or {}), model.config, model.source)
