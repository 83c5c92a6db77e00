"""The head a patch carries: two small layers between a trunk's state and the table of items.

    h(s) = s + W1 tanh(W0 s + b0) + b1        scores = h(s) . items

The trunk's own head is all zeros, so the trunk alone is its own first version. Without the residual it is the
head of DUET as published (Lv et al., arXiv 2209.05227). Items stay shared: the head maps the state, and
what ranks is one product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from tailorbird.errors import UsageError
from tailorbird.tailor.manifest import MAX_BYTES, Action, Floats, Manifest, Tensors, manifest_of

T = TypeVar("T")
NAMES = ("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias")
LEAST = 16_384  # bytes that any message may have
BLOCK = ("head.weight", "head.bias")  # of both layers, where they are one
ACTIONS: tuple[Action, ...] = ("replace", "edit", "mask", "skip")


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Of the head's tensors; 2 width (width + 1) numbers in all."""
    return dict(zip(NAMES, ((width, width), (width,), (width, width), (width,)), strict=True))


def with_head(trunk: Tensors, width: int) -> dict[str, Floats]:
    """A trunk and its head of zeros."""
    return dict(trunk) | {name: np.zeros(shape, np.float32) for name, shape in shapes(width).items()}


def room(width: int) -> int:
    """Bytes that a message of a head may have: enough for all its numbers as float32, whatever else is tried.

    Raises:
        UsageError: so wide a head passes what any message may have.
    """
    needed = 4 * sum(map(math.prod, shapes(width).values())) + 64  # and the header
    if needed > MAX_BYTES:
        raise UsageError(
            f"a head of width {width} takes {needed} bytes, a message at most {MAX_BYTES}",
            hint="train a narrower trunk: tailorbird train --shape width=64",
        )
    return max(LEAST, needed)


def unrolled(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors with a block that is stored once in the place of both layers; others as they are."""
    if BLOCK[0] not in tensors:
        return dict(tensors)
    head = {name: tensors[BLOCK[place % 2]] for place, name in enumerate(NAMES)}
    return {name: tensor for name, tensor in tensors.items() if name not in BLOCK} | head


def manifest_for(trunk: Tensors, max_abs: Mapping[str, float] | float = 8.0, model: str = "") -> Manifest:
    """The manifest of a trunk with a head: nothing but the head may be touched."""
    bounds = {name: max_abs if isinstance(max_abs, float) else max_abs[name] for name in NAMES}
    sizes: dict[str, Any] = {"max_bytes": room(len(trunk[NAMES[1]])), "model": model}
    return manifest_of(trunk, dict.fromkeys(NAMES, ACTIONS), max_abs=bounds, **sizes)


def mapped(state: Floats, tensors: Tensors, *, residual: bool = True) -> Floats:
    """A state through a head, or states through a head each: (..., width), tensors with as many leading dimensions; or
    with one fewer, for a state a candidate."""
    inner = np.tanh(_linear(state, tensors[NAMES[0]], tensors[NAMES[1]]))
    made = _linear(inner, tensors[NAMES[2]], tensors[NAMES[3]])
    found: Floats = state + made if residual else made
    return found


def _linear(state: Floats, weight: Floats, bias: Floats) -> Floats:
    if state.ndim == weight.ndim:
        found: Floats = state @ weight.swapaxes(-1, -2) + bias[..., None, :]
    else:
        found = np.matmul(weight, state[..., None])[..., 0] + bias
    return found


def stacked(heads: list[dict[str, Floats]]) -> dict[str, Floats]:
    """Heads of many devices as one of every tensor, (devices, ...)."""
    return {name: np.stack([head[name] for head in heads]) for name in NAMES}
