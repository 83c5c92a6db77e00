"""Layouts: equal to the gguf library's on random and extreme blocks, and packing is the inverse of unpacking."""

from __future__ import annotations

import warnings

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.formats.ggml import TYPES, BlockType, block_type
from tailorbird.formats.ggml.blocks import pack, unpack, values

KINDS = [pytest.param(kind, id=name) for name, kind in TYPES.items()]


def random_blocks(kind: BlockType, count: int = 200) -> Tensor:
    """Every bit at random, halves that are NaN or infinite among them; then all bits off, and all on."""
    generator = torch.Generator().manual_seed(kind.id)
    raw = torch.randint(0, 256, (count, kind.nbytes), dtype=torch.uint8, generator=generator)
    raw[-2:], raw[-1] = 0, 255
    return raw


def same_bits(got: Tensor, want: Tensor) -> bool:
    """Bit for bit; one NaN is as good as another."""
    return bool(((got.view(torch.int32) == want.view(torch.int32)) | (got.isnan() & want.isnan())).all())


@pytest.mark.parametrize("kind", KINDS)
def test_values_equal_the_library_bit_for_bit(kind: BlockType) -> None:
    their = gguf.GGMLQuantizationType[kind.name]
    assert their.value == kind.id and gguf.GGML_QUANT_SIZES[their] == (kind.weights, kind.nbytes)
    raw = random_blocks(kind)
    got = values(unpack(raw, kind), kind)
    if kind.name == "Q1_0":  # the library does not unpack it
        d = raw[:, :2].numpy().view(np.float16).astype(np.float32)
        bits = np.unpackbits(raw[:, 2:].numpy(), axis=1, bitorder="little")
        want = torch.from_numpy(np.where(bits == 1, d, -d))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            want = torch.from_numpy(gguf.quants.dequantize(raw.numpy(), their).astype(np.float32))
    assert got.shape == (len(raw), kind.weights) and same_bits(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_packing_is_the_inverse_of_unpacking(kind: BlockType) -> None:
    raw = random_blocks(kind)
    back = pack(unpack(raw, kind), kind)
    if kind.name == "TQ1_0":  # some bytes mean the same five digits
        assert same_bits(values(unpack(back, kind), kind), values(unpack(raw, kind), kind))
        return
    numbers = unpack(raw, kind)
    sound = numbers.d[:, 0].isfinite() & (numbers.dmin[:, 0].isfinite() if numbers.dmin is not None else True)
    assert sound.any() and torch.equal(back[sound], raw[sound])


def test_unknown_type() -> None:
    with pytest.raises(UsageError, match="unknown ggml type 'Q9_X'") as caught:
        block_type("Q9_X")
    assert "Q4_K" in caught.value.hint
