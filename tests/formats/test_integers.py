"""Whole numbers of one width: the same weight to the last bit, and one stream of bits a row."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.integers import Integers, bitstream, integers, signed, words


@st.composite
def weights(draw: st.DrawFn) -> BitPlanes:
    bits = tuple(draw(st.lists(st.integers(1, 8), min_size=1, max_size=5)))
    spec = PlaneSpec(bits, 8, draw(st.sampled_from(["none", "integer"])), draw(st.sampled_from(["u8", "fp16"])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return sweep(torch.randn(6, spec.cols, generator=generator) + 0.3, spec, minmax).pack()


def meaning(found: Integers, bits: int, size: int) -> torch.Tensor:
    """In float64, where no product of these numbers is rounded."""
    zeros = torch.tensor(2.0 ** (bits - 1)) if found.zeros is None else found.zeros.double()[:, :, None]
    codes = found.codes.double().view(*found.scale.shape, size)
    return ((codes - zeros) * found.scale.double()[:, :, None]).flatten(1)


def exact(planes: BitPlanes) -> torch.Tensor:
    from tailorbird.formats.grid import Grid, scale_values

    zeros, scale = Grid(planes.spec, planes.arrays).zeros(), scale_values(planes.arrays)
    codes = planes.codes().double().view(*scale.shape, 8)
    return ((codes - zeros[:, :, None]) * scale.double()[:, :, None]).flatten(1)


@given(weights(), st.integers(0, 3))
def test_nothing_is_rounded(planes: BitPlanes, more: int) -> None:
    bits = min(8, max(2, *planes.spec.bits) + more)
    found = integers(planes, bits)
    assert int(found.codes.max()) < 2**bits and found.scale.dtype == torch.float32
    assert torch.equal(meaning(found, bits, 8), exact(planes))
    centred = planes.spec.offset == "none" or set(planes.spec.bits) == {1}
    assert (found.zeros is None) == centred
    if centred or bits > max(planes.spec.bits):
        moved = signed(planes, bits)
        assert moved.zeros is None and torch.equal(meaning(moved, bits, 8), exact(planes))


@given(weights())
def test_some_groups_alone(planes: BitPlanes) -> None:
    groups = list(range(0, len(planes.spec.bits), 2))
    found = meaning(integers(planes, 8, groups), 8, 8)
    want = exact(planes).view(planes.rows, -1, 8)[:, groups].flatten(1)
    assert torch.equal(found, want)


@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 9))
def test_bits_follow_each_other(bits: int, n: int, seed: int) -> None:
    codes = torch.randint(2**bits, (3, n), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    rows = [sum(int(code) << (bits * i) for i, code in enumerate(row)) for row in codes]
    assert [int.from_bytes(bytes(row.tolist()), "little") for row in bitstream(codes, bits)] == rows
    packed = words(codes, bits)
    assert packed.dtype == torch.int32 and packed.shape == (3, -(-n * bits // 32))
    unsigned = packed.to(torch.int64) % 2**32
    assert [sum(int(word) << (32 * i) for i, word in enumerate(row)) for row in unsigned] == rows
