"""What a GGUF file holds, from its header alone; the vocabulary is stepped over, which makes it quick."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import llama_cpp

_NAMES = {getattr(llama_cpp, name): name[10:] for name in dir(llama_cpp) if name.startswith("GGML_TYPE_")}
# Bytes of each scalar value type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True)
class Header:
    """Weights per type, the type of each tensor, and the bytes of the tensor section (padding included)."""

    weights: Counter[str]
    types: dict[str, str]
    tensor_bytes: int


def _number(handle: BinaryIO, code: str) -> int:
    return int(struct.unpack("<" + code, handle.read(struct.calcsize(code)))[0])


def _skip(handle: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        handle.seek(_number(handle, "Q"), 1)
    elif kind == _ARRAY:
        inner, count = _number(handle, "I"), _number(handle, "Q")
        if inner in _SIZES:
            handle.seek(_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(handle, inner)
    else:
        handle.seek(_SIZES[kind], 1)


def read(path: Path) -> Header:
    """Read the header of a little-endian GGUF file, version 2 or 3, of the default alignment.

    Raises:
        SystemExit: not a GGUF file.
    """
    with path.open("rb") as handle:
        if handle.read(4) != b"GGUF" or _number(handle, "I") not in (2, 3):
            raise SystemExit(f"{path} is not a GGUF file of version 2 or 3")
        tensors, entries = _number(handle, "Q"), _number(handle, "Q")
        for _ in range(entries):
            _skip(handle, _STRING)
            _skip(handle, _number(handle, "I"))
        weights: Counter[str] = Counter()
        types: dict[str, str] = {}
        for _ in range(tensors):
            name = handle.read(_number(handle, "Q")).decode()
            shape = [_number(handle, "Q") for _ in range(_number(handle, "I"))]
            types[name] = _NAMES[_number(handle, "I")]
            weights[types[name]] += math.prod(shape)
            handle.seek(8, 1)  # its offset
        start = -(-handle.tell() // _ALIGNMENT) * _ALIGNMENT
    return Header(weights, types, path.stat().st_size - start)
