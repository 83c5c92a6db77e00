"""A model that is compressed in form only: packed weights of a plan's formats with nothing in them.

What stands in a weight does not change how long it takes, so a plan's speed can be measured before anything is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy.model import Shaped, Source
from tailorbird.formats import PackedWeight, RowSpec, Spec
from tailorbird.formats.rows import RowClasses
from tailorbird.plan import Plan

# Halves of about the size of a scale, so that activations stay numbers; bytes with as many ones as zeros.
_HALF = 0.01
_BYTE = 0b01010101


class Hollow:
    """What `load` needs of an artifact.

    Args:
        original: the model that norms and the like are read from, as its parts were laid out: a rotated one rotated.
        plan: formats by part.
        folder: where the original's files lie.
    """

    def __init__(self, original: Source, plan: Plan, folder: Path) -> None:
        self.original, self.plan, self.source, self.folder = original, plan, original.source, folder
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

    def planes(self, part: str) -> PackedWeight:
        """One packed weight."""
        return _empty(self.rows[part], self.plan.specs[part])


def _empty(rows: int, spec: Spec) -> PackedWeight:
    if isinstance(spec, RowSpec):
        # Rows of a class lie anywhere, as they do in a vocabulary.
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
        classes = torch.arange(len(spec.sizes), dtype=torch.uint8).repeat_interleave(torch.tensor(spec.sizes))[order]
        return RowClasses.join(classes, [_empty(*one) for one in zip(spec.sizes, spec.formats, strict=True)])
    return spec.read(rows, {name: _filled(name, array) for name, array in spec.plan(rows).arrays.items()})


def _filled(name: str, array: Tensor) -> Tensor:
    if name == "column_order":
        return torch.arange(array.numel(), dtype=array.dtype)
    value = _HALF if array.is_floating_point() else 1 if array.dtype == torch.int8 else _BYTE
    return torch.full(array.shape, value, dtype=array.dtype)
