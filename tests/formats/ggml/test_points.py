"""Codebook types: the points chosen are the nearest there are, found by trying all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tailorbird.formats.ggml import TYPES, BlockType, decode, encode
from tailorbird.formats.ggml.blocks import bits_of, sign_of, unpack, values
from tailorbird.formats.ggml.codebooks import points
from tailorbird.formats.ggml.points import Search
from tailorbird.formats.ggml.types import Codebook

KINDS = [pytest.param(kind, id=name) for name, kind in TYPES.items() if isinstance(kind.grid, Codebook)]
SIGNS = 1 - 2 * ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).float()


def candidates(grid: Codebook) -> Tensor:
    """Every vector that eight weights can be at scale 1, for points of eight weights."""
    table = points(grid)
    if grid.signs == "shift":
        return table
    signs = SIGNS[SIGNS.prod(1) > 0] if grid.signs == "even" else SIGNS
    return (table[:, None] * signs).flatten(0, 1)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M"])
def test_points_are_the_nearest(name: str) -> None:
    kind = TYPES[name]
    assert isinstance(kind.grid, Codebook)
    generator = torch.Generator().manual_seed(7)
    w, h = torch.randn(64, 1, 8, generator=generator), torch.rand(1, 1, 8, generator=generator) + 0.2
    step = torch.rand(64, 1, generator=generator) * 0.3 + 0.2
    search = Search(w, h, kind.grid)
    found = search.levels(search.codes(step)) * step[:, :, None]
    least = ((candidates(kind.grid) * step[:, :, None] - w).square() * h).sum(2).amin(1)
    lost = ((found - w).square() * h).sum((1, 2))
    gain = (w.square() * h).sum(2) - search.gain(step)
    assert torch.allclose(gain[:, 0], lost, atol=1e-4)
    if kind.grid.signs == "even":  # one sign is turned, the one that weighs least, whatever the point
        assert (lost >= least - 1e-4).all() and lost.sum() < 1.02 * least.sum()
    else:
        assert torch.allclose(lost, least, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_worse_than_nearest_points_at_plain_scales(kind: BlockType) -> None:
    """Scales that spread the points over the weights, rounded to the odd multiples, and nearest points."""
    assert isinstance(kind.grid, Codebook)
    weight = torch.randn(16, 512, generator=torch.Generator().manual_seed(8))
    w = weight.view(-1, kind.subs, kind.sub)
    wished = w.square().mean(2).sqrt() / points(kind.grid).square().mean().sqrt()
    d = (wished.amax(1, keepdim=True) / (2 * kind.grid.top + 1)).half().float()
    step = d * (((wished / d - 1) / 2).round().clamp(0, kind.grid.top) * 2 + 1)
    search = Search(w, torch.ones(1, 1, 1), kind.grid)
    plain = (search.levels(search.codes(step)) * step[:, :, None] - w).square().sum()
    assert (decode(encode(weight, kind), kind) - weight).square().sum() < 0.99 * plain


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ3_XXS"])
def test_signs_are_even(name: str) -> None:
    kind = TYPES[name]
    blocks = encode(torch.randn(8, 512, generator=torch.Generator().manual_seed(9)), kind)
    numbers = unpack(blocks.view(-1, kind.nbytes), kind)
    assert numbers.signs is not None
    minus = sign_of(numbers.signs) < 0
    assert (minus.view(-1, 8).sum(1) % 2 == 0).all() and torch.equal(bits_of(minus), numbers.signs)


def test_points_of_a_sub_block_share_their_shift() -> None:
    kind = TYPES["IQ1_S"]
    blocks = encode(torch.randn(8, 512, generator=torch.Generator().manual_seed(10)), kind)
    shifts = unpack(blocks.view(-1, kind.nbytes), kind).codes >= 2048
    assert torch.equal(shifts.any(2), shifts.all(2)) and shifts.any() and not shifts.all()


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_numbers_are_stored(kind: BlockType) -> None:
    """Every index, sign and scale that the encoder uses comes back: values of blocks are those that it measured."""
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(11)) ** 3
    once = encode(weight, kind)
    got = values(unpack(once.view(-1, kind.nbytes), kind), kind).view(4, 256)
    assert torch.equal(got, decode(once, kind)) and got.unique().numel() > 8
