"""The tensors a device's recommender has, by its name and sizes: what a folder says is held to its files before
anything is made that is as large as it says. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tailorbird.errors import ArtifactError
from tailorbird.tailor.head import BLOCK, shapes
from tailorbird.tailor.manifest import Tensors

Shapes = dict[str, tuple[int, ...]]


def check_sizes(name: str, shape: Mapping[str, Any], tensors: Tensors) -> None:
    """Hold tensors to the sizes of a recommender.

    Args:
        name: of the recommender.
        shape: its sizes, as `zoo.recommenders.model.Shape`.
        tensors: float32, by name; others than the recommender's may be among them.

    Raises:
        ArtifactError: another kind of recommender, a size that can't be, or a tensor that is missing or has another
            shape or type.
    """
    if name not in KINDS or shape.get("form", "dot") != "dot":
        raise ArtifactError(f"no device runs this {name!r}", hint=f"there are: {', '.join(KINDS)}")
    sizes: dict[str, Any] = {key: shape.get(key) for key in ("items", "length", "width", "layers", "heads")}
    odd = [key for key, size in sizes.items() if type(size) is not int or size < 1]
    # Every layer has tensors: names of more layers than there are tensors need not be written down.
    if odd or sizes["width"] % sizes["heads"] or (name != "din" and sizes["layers"] > len(tensors)):
        raise ArtifactError(f"there is no {name} of {sizes}", hint="fetch it again")
    for key, wanted in KINDS[name](**{key: sizes[key] for key in ("items", "length", "width", "layers")}).items():
        found = tensors.get(key)
        if found is None or found.shape != wanted or found.dtype != np.float32:
            told = "missing" if found is None else f"{found.dtype} {found.shape}"
            raise ArtifactError(f"tensor {key!r} is {told}, its {name} has float32 {wanted}", hint="fetch it again")


def check_personal(width: int, tensors: Tensors) -> None:
    """Hold what a trunk carries for its system to the sizes of a head: the head itself, a block that stands for both of
    its layers, and prototypes.

    Args:
        width: of the recommender's states.
        tensors: as they are stored, by name.

    Raises:
        ArtifactError: one of another name, shape or type, or a block beside a head or without its other half.
    """
    head = shapes(width)
    block = dict(zip(BLOCK, head.values(), strict=False))
    for key, found in tensors.items():
        name = key.split(".", 2)[2] if key.startswith("prototype.") and key.count(".") > 1 else key
        wanted = head.get(name, block.get(key))
        if found.shape != wanted or found.dtype != np.float32:
            raise ArtifactError(f"{key!r} is {found.dtype} {found.shape}, not of the head", hint="fetch it again")
    if tensors.keys() & block.keys() not in (set(), block.keys()) or (BLOCK[0] in tensors and tensors.keys() & head):
        raise ArtifactError("a block of both layers that is not whole, or not alone", hint="fetch it again")


def _sasrec(items: int, length: int, width: int, layers: int) -> Shapes:
    found: Shapes = {"items.weight": (items + 1, width), "positions.weight": (length, width)}
    for layer in range(layers):
        for part in ("before", "between"):
            found |= _norm(f"blocks.{layer}.{part}", width)
        for part, rows in (("qkv", 3 * width), ("out", width), ("up", width), ("down", width)):
            found |= _linear(f"blocks.{layer}.{part}", rows, width)
    return found | _norm("norm", width)


def _gru4rec(items: int, length: int, width: int, layers: int) -> Shapes:
    inner = 2 * width
    found: Shapes = {"items.weight": (items + 1, width)} | _linear("out", width, inner)
    for layer in range(layers):
        for side, columns in (("ih", inner if layer else width), ("hh", inner)):
            found |= {f"gru.weight_{side}_l{layer}": (3 * inner, columns), f"gru.bias_{side}_l{layer}": (3 * inner,)}
    return found


def _din(items: int, length: int, width: int, layers: int) -> Shapes:
    found: Shapes = {"items.weight": (items + 1, width), "positions.weight": (length, width)}
    found |= {f"{part}.weight": (width, width) for part in ("query", "key", "value")}
    for part in ("read", "target", "down"):
        found |= _linear(part, width, width)
    return found


KINDS: dict[str, Callable[..., Shapes]] = {"sasrec": _sasrec, "gru4rec": _gru4rec, "din": _din}


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
