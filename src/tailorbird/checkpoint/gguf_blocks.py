"""Decoding the tensors of a GGUF file: numpy at its edge, the block types of `formats.ggml` inside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.errors import ModelError
from tailorbird.formats import ggml

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

BLOCKS: dict[str, tuple[int, int]] = {
    **{name: (1, dtype.itemsize) for name, dtype in _PLAIN.items()},
    **{name: (kind.weights, kind.nbytes) for name, kind in ggml.TYPES.items()},
}
"""Type name -> weights in a block, bytes of a block."""


def decode(raw: Bytes, type_name: str, shape: Sequence[int]) -> Floats:
    """Decode one tensor, or whole rows of it.

    Args:
        raw: its bytes, uint8, any shape.
        type_name: one of `BLOCKS`.
        shape: of the result, rows last to first as in torch; the last one is made of whole blocks.

    Returns:
        float32 array of that shape, in memory of its own. Damaged scales may give NaN.

    Raises:
        ModelError: unknown type, or bytes that don't match the shape.
    """
    expected = row_bytes(type_name, shape[-1] if shape else 1) * math.prod(shape[:-1])
    if raw.size != expected:
        raise ModelError(
            f"{type_name} data of shape {tuple(shape)} need {expected} bytes, there are {raw.size}",
            hint="the GGUF file is damaged; fetch it again",
        )
    # A copy: the file's bytes may be read-only, or at an address no number may stand at.
    data = torch.from_numpy(np.array(raw, dtype=np.uint8).reshape(-1, BLOCKS[type_name][1]))
    if type_name in _PLAIN:
        weights = data.view(_PLAIN[type_name]).to(torch.float32)
    else:
        weights = ggml.decode(data, ggml.TYPES[type_name])
    found: Floats = weights.numpy().reshape(tuple(shape))
    return found


def row_bytes(type_name: str, columns: int) -> int:
    """Bytes that a row of `columns` weights takes.

    Raises:
        ModelError: unknown type, or columns that are not whole blocks.
    """
    if type_name not in BLOCKS:
        raise ModelError(
            f"the GGUF type {type_name} is not supported (supported: {', '.join(BLOCKS)})",
            hint="use a GGUF file of a supported type, for example Q8_0 or F16, or the original folder",
        )
    weights, size = BLOCKS[type_name]
    if columns % weights:
        raise ModelError(
            f"rows of {columns} weights are not whole {type_name} blocks of {weights}",
            hint="the GGUF file is damaged; fetch it again",
        )
    return columns // weights * size
