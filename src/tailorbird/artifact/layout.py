"""Which tensors go into which file of an artifact, and how many bytes that makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.formats import PackedWeight, Spec
from tailorbird.formats.safetensors_write import file_bytes

HEAD = "head.safetensors"
# What config.json is given beside the model's own settings: by it transformers knows whom to ask for the weights.
QUANTIZED = {"quantization_config": {"quant_method": "tailorbird"}}


@dataclass(frozen=True)
class Segment:
    """What is fitted and written together.

    Attributes:
        file: name of its safetensors file.
        parts: what is packed.
        kept: names of tensors stored as they are.
        block: index of the block, or None for the ends.
    """

    file: str
    parts: tuple[Part, ...]
    kept: tuple[str, ...]
    block: int | None = None


def segments(model: Model) -> list[Segment]:
    """The pieces of a model: input embedding, blocks, then what the head needs and the rest, with an embedding that is
    tied to it."""
    kept = list(model.kept())
    first = tuple(part for part in model.parts if part.role == "embedding" and not part.tied)
    found = [Segment("embedding.safetensors", first, ())] if first else []
    for index, name in enumerate(model.blocks):
        parts = tuple(part for part in model.parts if part.block == index)
        mine = tuple(k for k in kept if not name or k.startswith(f"{name}."))
        found.append(Segment(f"block-{index:03d}.safetensors", parts, mine, index))
    used = {part for segment in found for part in segment.parts}
    rest = tuple(part for part in model.parts if part not in used)
    left = tuple(k for k in kept if not any(k in segment.kept for segment in found))
    return [*found, Segment(HEAD, rest, left)] if rest or left else found


def planned_bytes(pieces: list[Segment], specs: Mapping[str, Spec], kept: Mapping[str, Tensor]) -> int:
    """Bytes of all safetensors files, from the real packer and the real header, without weights."""
    total = 0
    for piece in pieces:
        planes = {part.name: specs[part.name].plan(part.shape[0]) for part in piece.parts}
        total += file_bytes(tensors_of(planes, {name: kept[name] for name in piece.kept}))
    return total


def tensors_of(planes: Mapping[str, PackedWeight], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a file by their names in it."""
    packed = {f"{name}.{array}": tensor for name, p in planes.items() for array, tensor in p.arrays.items()}
    return packed | dict(kept)


def narrowed(tensor: Tensor) -> Tensor:
    """A float tensor in the smallest of bfloat16 and float16 that holds it exactly, else as it is."""
    if tensor.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(tensor.to(dtype).float(), tensor):
                return tensor.to(dtype)
    return tensor
