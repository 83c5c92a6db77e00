"""A small block with inputs and targets, and the layers of the tests of `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.measure.block import Block
from tailorbird.measure.statistics import Stats

_shared = run_path(str(Path(__file__).parents[1] / "fit" / "conftest.py"))
layer_of = _shared["layer_of"]


def make_block(seed: int = 0, batches: int = 3, told: Callable[[int, int], None] | None = None, **sizes: int) -> Block:
    """Two layers with a residual connection: ``x + down(relu(up(x)))``."""
    width, inner = sizes.get("width", 48), sizes.get("inner", 64)
    up = _shared["make_layer"](width, inner, 16 * batches * 4, [3, 20], seed)
    down = _shared["make_layer"](inner, width, 8, [5], seed + 1)
    weights = {"up": up.weight, "down": down.weight}
    inputs = list(up.inputs.view(batches, 4, 16, width).unbind(0))

    def forward(hidden: Tensor, replaced: Mapping[str, Tensor]) -> Tensor:
        w = {name: replaced.get(f"{name}.weight", weight) for name, weight in weights.items()}
        return hidden + torch.relu(hidden @ w["up"].T) @ w["down"].T

    parts = [Part(name, (weight.shape[0], weight.shape[1]), "mlp", 0) for name, weight in weights.items()]
    stats = {name: Stats() for name in weights}
    for hidden in inputs:
        stats["up"].add(hidden, {"gram", "inputs"}, 1)
        stats["down"].add(torch.relu(hidden @ up.weight.T), {"gram", "inputs"}, 1)
    targets = [forward(hidden, {}) for hidden in inputs]
    report = told or (lambda done, total: None)
    return Block(0, parts, weights, {}, stats, inputs, targets, 5, forward, report)


@pytest.fixture(scope="session")
def block_of() -> Any:
    """`make_block`."""
    return make_block
