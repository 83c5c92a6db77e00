"""Writing safetensors files whose size is known before there is any data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.files import atomic_path
from tailorbird.formats.raw import raw_bytes

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.uint8: "U8",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL",
}  # fmt: skip


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Size of the file `write` or `stream` would make; meta tensors will do."""
    return len(_header(tensors, metadata)) + sum(_nbytes(tensor) for tensor in tensors.values())


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all. Equal tensors give equal bytes.

    Raises:
        ResourceError: the disk is full.
    """
    stream(path, tensors, lambda name: [tensors[name]])


def stream(
    path: Path,
    tensors: Mapping[str, Tensor],
    pieces: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors that are never whole in memory.

    Args:
        path: of the file.
        tensors: shapes and types; meta tensors will do.
        pieces: consecutive rows of a tensor, by its name.
        metadata: texts for the header.

    Raises:
        ResourceError: the disk is full.
        ValueError: the pieces of a tensor have more or fewer bytes than the tensor.
    """
    with atomic_path(path) as aside, aside.open("wb") as handle:
        handle.write(_header(tensors, metadata))
        for name in _ordered(tensors):
            written = sum(handle.write(raw_bytes(piece)) for piece in pieces(name))
            if written != _nbytes(tensors[name]):
                raise ValueError(f"{name}: {written} bytes came where {_nbytes(tensors[name])} were announced")


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in _ordered(tensors):
        tensor = tensors[name]
        end = at + _nbytes(tensor)
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _ordered(tensors: Mapping[str, Tensor]) -> list[str]:
    """Widest elements first, so that every tensor starts at a multiple of its element size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
