"""Bit planes in plain PyTorch: the definition every faster kernel is tested against.

One byte holds the same bit of eight neighbouring codes, lowest column in the lowest bit. Eight codes of one byte
each are handled as one 64-bit word, so packing and unpacking cost a few integer operations for eight weights.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Multiplying a word whose bytes are all 0 or 1 by this moves byte i's bit to bit 56 + i: no two products meet there.
_GATHER_BITS = 0x0102040810204080
_LOW_BITS = 0x0101010101010101


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Split codes into bit planes.

    Args:
        codes: uint8, shape (rows, n), values below ``2**bits``.
        bits: planes to make, 1 to 8.

    Returns:
        uint8, shape (rows, bits * ceil(n / 8)): plane 0 (lowest bit) of the row, then plane 1, and so on; of meta
        tensors the shape.
    """
    rows, n = codes.shape
    if codes.is_meta:  # arithmetic on these would import torch's compiler, which takes seconds
        return codes.new_empty(rows, bits * -(-n // 8))
    if n % 8:
        codes = torch.nn.functional.pad(codes, (0, -n % 8))
    elif codes.storage_offset() % 8:
        codes = codes.clone()  # to an address that can be read as words
    words = codes.contiguous().view(-1).view(torch.int64).view(rows, -(-n // 8))
    planes = [(((words >> p) & _LOW_BITS) * _GATHER_BITS) >> 56 for p in range(bits)]
    return torch.cat([plane.to(torch.uint8) for plane in planes], dim=1)


def unpack_bits(packed: Tensor, bits: int, n: int) -> Tensor:
    """The codes behind `pack_bits`.

    Args:
        packed: uint8, shape (rows, bits * ceil(n / 8)).
        bits: number of planes.
        n: codes in a row.

    Returns:
        uint8, shape (rows, n).
    """
    width = -(-n // 8)
    table = _spread_table().to(packed.device)
    words = torch.zeros(packed.shape[0], width, dtype=torch.int64, device=packed.device)
    for p in range(bits):
        plane = packed[:, p * width : (p + 1) * width].to(torch.int64)
        words |= table[plane] << p
    return words.view(torch.uint8)[:, :n]


def split_bits(values: Tensor, bits: int) -> Tensor:
    """Numbers (rows, n) as single bits, lowest first, uint8 (rows, n * bits)."""
    shifts = torch.arange(bits, dtype=torch.uint8, device=values.device)
    return ((values[:, :, None] >> shifts) & 1).flatten(1)


def join_bits(flat: Tensor, bits: int) -> Tensor:
    """The numbers behind `split_bits`, uint8 (rows, n)."""
    shifts = torch.arange(bits, dtype=torch.uint8, device=flat.device)
    return (flat.reshape(flat.shape[0], flat.shape[1] // bits, bits) << shifts).sum(2, dtype=torch.uint8)


@lru_cache(maxsize=1)
def _spread_table() -> Tensor:
    """For each byte, the word whose byte i is the byte's bit i."""
    table = torch.zeros(256, dtype=torch.int64)
    for value in range(256):
        table[value] = sum(((value >> i) & 1) << (8 * i) for i in range(8))
    return table
