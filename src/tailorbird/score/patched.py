"""A model with some parts in other formats, rounded on the fly: nothing of it is ever in memory or on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.anatomy.model import Shaped

Changed = Callable[[Part, Tensor], Tensor]


class _Patched:
    """The tensors of a model by their names in it, some changed row by row."""

    def __init__(self, model: Model, changed: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self.model, self.changed = model, changed
        self.parts = {part.tensor: part for part in model.parts}

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """Shapes."""
        return {name: _Shape(shape) for name, shape in self.model.kept().items()} | {
            name: _Shape(part.shape) for name, part in self.parts.items()
        }

    def read(self, name: str) -> Tensor:
        """One tensor."""
        part = self.parts.get(name)
        return self.model.read(name) if part is None else self.read_rows(name, 0, part.shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a part."""
        rows = self.model.read_rows(self.parts[name], start, stop).float()
        change = self.changed.get(name.removesuffix(".weight"))
        return rows if change is None else change(rows)


class _Shape:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def patched(model: Model, changed: Mapping[str, Callable[[Tensor], Tensor]]) -> Model:
    """The model with the weights of some parts, by name, put through a function of their rows (n, cols)."""
    module = copy.deepcopy(model.module)
    return Model(module, model.anatomy, _Patched(model, changed), model.config, model.source)
