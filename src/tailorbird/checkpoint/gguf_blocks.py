"""Decoders of the GGUF block formats, vectorised over blocks.

Layouts as llama.cpp's ggml-common.h defines them (ggml, GGUF v3). Every block is a run of 32 or 256
consecutive weights of a row. The order of the float32 operations is part of the contract: results equal the
reference bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tailorbird.errors import ModelError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def decode(raw: Bytes, type_name: str, shape: Sequence[int]) -> Floats:
    """Decode one tensor, or whole rows of it.

    Args:
        raw: its bytes, uint8, any shape.
        type_name: ``F32``, ``F16``, ``BF16``, ``Q4_0`` to ``Q8_0``, ``Q2_K`` to ``Q6_K``.
        shape: of the result, rows last to first as in torch; the last one is made of whole blocks.

    Returns:
        float32 array of that shape, in memory of its own.

    Raises:
        ModelError: unknown type, or bytes that don't match the shape.
    """
    expected = row_bytes(type_name, shape[-1] if shape else 1) * math.prod(shape[:-1])
    if raw.size != expected:
        raise ModelError(
            f"{type_name} data of shape {tuple(shape)} need {expected} bytes, there are {raw.size}",
            hint="the GGUF file is damaged; fetch it again",
        )
    _, size, decoder = BLOCKS[type_name]
    blocks = np.ascontiguousarray(raw).reshape(-1, size)
    with np.errstate(all="ignore"):  # a NaN in a damaged scale is found where weights are measured
        return decoder(blocks).reshape(tuple(shape))


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
    weights, size, _ = BLOCKS[type_name]
    if columns % weights:
        raise ModelError(
            f"rows of {columns} weights are not whole {type_name} blocks of {weights}",
            hint="the GGUF file is damaged; fetch it again",
        )
    return columns // weights * size


def _half(blocks: Bytes, at: int) -> Floats:
    """The fp16 number at byte `at` of every block: (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _halves(blocks: Bytes, at: int) -> tuple[Floats, Floats]:
    return _half(blocks, at)[:, :, None], _half(blocks, at + 2)[:, :, None]


def _nibbles(packed: Bytes) -> Bytes:
    """All low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fields(packed: Bytes, width: int, run: int) -> Bytes:
    """Bit fields of `width` bits: for every `run` bytes the lowest field of each, then the next one, ..."""
    shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(1, 1, -1, 1)
    spread = packed.reshape(len(packed), -1, 1, run) >> shifts
    return (spread & np.uint8((1 << width) - 1)).reshape(len(packed), -1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 2:]).view(np.int8) - 8
    return _half(blocks, 0) * codes.astype(np.float32)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    codes = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)).view(np.int8) - 16
    return _half(blocks, 0) * codes.astype(np.float32)


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q2_k(blocks: Bytes) -> Floats:
    scales, (d, dmin) = blocks[:, :16, None], _halves(blocks, 80)
    codes = _fields(blocks[:, 16:80], 2, 32).reshape(-1, 16, 16)
    step = d * (scales & 15).astype(np.float32)
    return step * codes.astype(np.float32) - dmin * (scales >> 4).astype(np.float32)


def _q3_k(blocks: Bytes) -> Floats:
    low = _fields(blocks[:, 32:96], 2, 32).view(np.int8)
    lift = _fields(blocks[:, :32], 1, 32).view(np.int8)
    codes = (low + 4 * lift - 4).reshape(-1, 16, 16)
    six_bits = _nibbles(blocks[:, 96:104]) | (_fields(blocks[:, 104:108], 2, 4) << 4)
    step = _half(blocks, 108) * (six_bits.view(np.int8) - 32).astype(np.float32)
    return step[:, :, None] * codes.astype(np.float32)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes: each (blocks, 8, 1)."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales.astype(np.float32)[:, :, None], minima.astype(np.float32)[:, :, None]


def _affine_k(blocks: Bytes, codes: Bytes) -> Floats:
    (d, dmin), (scales, minima) = _halves(blocks, 0), _six_bit_pairs(blocks[:, 4:16])
    return d * scales * codes.reshape(-1, 8, 32).astype(np.float32) - dmin * minima


def _q4_k(blocks: Bytes) -> Floats:
    return _affine_k(blocks, _fields(blocks[:, 16:], 4, 32))


def _q5_k(blocks: Bytes) -> Floats:
    fifth = _fields(blocks[:, 16:48], 1, 32) << np.uint8(4)
    return _affine_k(blocks, _fields(blocks[:, 48:], 4, 32) | fifth)


def _q6_k(blocks: Bytes) -> Floats:
    codes = _fields(blocks[:, :128], 4, 64) | (_fields(blocks[:, 128:192], 2, 32) << 4)
    step = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return step[:, :, None] * (codes.view(np.int8) - 32).reshape(-1, 16, 16).astype(np.float32)


BLOCKS: dict[str, tuple[int, int, Callable[[Bytes], Floats]]] = {
    "F32": (1, 4, _f32),
    "F16": (1, 2, _f16),
    "BF16": (1, 2, _bf16),
    "Q4_0": (32, 18, _q4_0),
    "Q4_1": (32, 20, _q4_1),
    "Q5_0": (32, 22, _q5_0),
    "Q5_1": (32, 24, _q5_1),
    "Q8_0": (32, 34, _q8_0),
    "Q2_K": (256, 84, _q2_k),
    "Q3_K": (256, 110, _q3_k),
    "Q4_K": (256, 144, _q4_k),
    "Q5_K": (256, 176, _q5_k),
    "Q6_K": (256, 210, _q6_k),
}
"""Type name -> weights in a block, bytes of a block, decoder from (blocks, bytes) to floats."""
