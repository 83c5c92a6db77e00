"""Bit planes against their definition: bit p of column j stands in bit j % 8 of byte j // 8 of plane p."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.kernels.reference import pack_bits, unpack_bits


def codes_of(rows: int, n: int, bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (rows, n), generator=generator, dtype=torch.uint8)


def naive(codes: list[int], bits: int) -> list[int]:
    packed = [0] * (bits * ((len(codes) + 7) // 8))
    for p in range(bits):
        for j, code in enumerate(codes):
            packed[p * ((len(codes) + 7) // 8) + j // 8] |= ((code >> p) & 1) << (j % 8)
    return packed


@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 8), st.integers(0, 2**31))
def test_packing_is_its_definition_and_unpacking_its_inverse(rows: int, n: int, bits: int, seed: int) -> None:
    codes = codes_of(rows, n, bits, seed)
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == [naive(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack_bits(packed, bits, n), codes)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 8), st.integers(0, 9))
def test_any_view_of_memory_can_be_packed(rows: int, n: int, bits: int, start: int) -> None:
    whole = codes_of(rows, n + 10, bits, n)
    for view in (whole[:, start : start + n], whole.T[start : start + n].T):
        assert torch.equal(unpack_bits(pack_bits(view, bits), bits, n), view)
    assert torch.equal(unpack_bits(pack_bits(whole.T, bits), bits, rows), whole.T)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_survives(bits: int) -> None:
    codes = torch.arange(2**bits, dtype=torch.uint8)[None]
    assert torch.equal(unpack_bits(pack_bits(codes, bits), bits, 2**bits), codes)


@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 8))
def test_meta_tensors_give_the_same_shape(rows: int, n: int, bits: int) -> None:
    meta = pack_bits(torch.empty(rows, n, dtype=torch.uint8, device="meta"), bits)
    assert meta.is_meta and meta.shape == pack_bits(codes_of(rows, n, bits, 0), bits).shape
