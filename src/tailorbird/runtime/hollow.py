"""A model that is compressed in form only: packed weights of a plan's formats with nothing in them.

What stands in a weight does not change how long it takes, so a plan's speed can be measured before anything is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy.model import Shaped
from tailorbird.formats import PackedWeight
from tailorbird.plan import Plan
from tailorbird.runtime.load import Source

# Halves of about the size of a scale, so that activations stay numbers; bytes with as many ones as zeros.
_HALF = 0.01
_BYTE = 0b01010101


class Hollow:
    """What `load` needs of an artifact.

    Args:
        original: the model that norms and the like are read from.
        plan: formats by part.
    """

    def __init__(self, original: Source, plan: Plan) -> None:
        self.original, self.plan, self.source = original, plan, original.source
        self.rows = {part.name: part.shape[0] for part in plan.parts}

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self.original.config

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """Every tensor by name."""
        return self.original.tensors

    def read(self, name: str) -> Tensor:
        """One tensor that is kept as it is."""
        return self.original.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of it."""
        return self.original.read_rows(name, start, stop)

    @property
    def folder(self) -> Path:
        """Where the original's files lie."""
        return self.original.folder

    def planes(self, part: str) -> PackedWeight:
        """One packed weight."""
        rows, spec = self.rows[part], self.plan.specs[part]
        return spec.read(rows, {name: _filled(name, a) for name, a in spec.plan(rows).arrays.items()})


def _filled(name: str, array: Tensor) -> Tensor:
    if name == "column_order":
        return torch.arange(array.numel(), dtype=array.dtype)
    value = _HALF if array.is_floating_point() else 1 if array.dtype == torch.int8 else _BYTE
    return torch.full(array.shape, value, dtype=array.dtype)
