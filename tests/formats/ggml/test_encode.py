"""Encoders: better than ggml's own at every type, exact on weights already on a grid, and at ease with any weight."""

from __future__ import annotations

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tailorbird.errors import DataError, UsageError
from tailorbird.formats.ggml import TYPES, BlockType, decode, encode

KINDS = [pytest.param(kind, id=name) for name, kind in TYPES.items()]
# Relative squared error of ggml's own encoders with a flat importance matrix on iid N(0, 1), measured by
# benchmarks/encoders.py; the same numbers within sampling as published for 256-row samples.
GGML = {
    **{"Q1_0": 0.3605, "TQ1_0": 0.6536, "TQ2_0": 0.6536, "Q2_K": 0.0720, "Q3_K": 0.0209, "IQ4_XS": 0.0057},
    **{"Q4_0": 0.0067, "Q4_K": 0.0050, "IQ4_NL": 0.0056, "Q4_1": 0.0049, "Q5_0": 0.00164, "Q5_1": 0.00115},
    **{"Q5_K": 0.00126, "Q6_K": 0.0003, "Q8_0": 0.00003, "IQ1_S": 0.2358, "IQ1_M": 0.2032, "IQ2_XXS": 0.1181},
    **{"IQ2_XS": 0.0897, "IQ2_S": 0.0620, "IQ3_XXS": 0.0329, "IQ3_S": 0.0187},
}


def gaussian(rows: int = 64, cols: int = 1024, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def error(weight: Tensor, kind: BlockType, h: Tensor | None = None, **options: Tensor) -> float:
    h = torch.ones(weight.shape[1]) if h is None else h
    lost = (decode(encode(weight, kind, **options), kind) - weight).square() @ h
    return (lost.sum() / (weight.square() @ h).sum()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_weights_lose_no_more_than_with_the_reference(kind: BlockType) -> None:
    assert error(gaussian(), kind) <= GGML[kind.name]


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"])
@pytest.mark.parametrize("tails", [False, True])
def test_better_than_the_library(name: str, tails: bool) -> None:
    weight = gaussian(16) ** 3 if tails else gaussian(16)
    their = gguf.GGMLQuantizationType[name]
    want = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), their), their))
    assert error(weight, TYPES[name]) < ((want - weight).square().sum() / weight.square().sum()).item()


def test_proper_ternary() -> None:
    assert error(gaussian(), TYPES["TQ1_0"]) < 0.191
    assert error(gaussian(), TYPES["TQ2_0"]) < 0.140  # the fourth level of its two bits


@pytest.mark.parametrize("kind", KINDS)
def test_importance_moves_the_error_where_it_costs_less(kind: BlockType) -> None:
    weight = gaussian(32)
    importance = torch.rand(1024, generator=torch.Generator().manual_seed(1)).add(0.05).pow(-2)
    flat, weighted = error(weight, kind, importance), error(weight, kind, importance, importance=importance)
    assert weighted <= flat if kind.name == "Q1_0" else weighted < 0.99 * flat


@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_the_grid_stay(kind: BlockType) -> None:
    once = decode(encode(gaussian(8), kind), kind)
    assert error(once, kind) < 3e-5


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
def test_a_known_grid_is_found_again(name: str) -> None:
    """Most blocks don't use all codes of their grid, and nothing in them shows its step."""
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(16, 16, generator=generator) * 0.01 + 0.01
    offset = -scale * torch.randint(3, 12, (16, 16), generator=generator)
    codes = torch.randn(16, 16, 64, generator=generator).mul(2).add(7).round().clamp(0, 15)
    weight = (codes * scale[:, :, None] + offset[:, :, None]).flatten(1)
    kind = TYPES[name]
    known = decode(encode(weight, kind, grid=(scale, offset)), kind)
    assert (known - weight).square().sum() / weight.square().sum() < 3e-6
    assert error(weight, kind) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_weights(kind: BlockType) -> None:
    rows = {
        "zeros": torch.zeros(512),
        "tiny": torch.full((512,), 1e-30),
        "huge": gaussian(1, 512)[0] * 1e9,
        "alone": torch.eye(512)[100] * 3,
        "constant": torch.full((512,), -0.25),
        "positive": gaussian(1, 512)[0].abs() + 4,
    }
    weight = torch.stack(list(rows.values()))
    got = dict(zip(rows, decode(encode(weight, kind), kind), strict=True))
    assert all(row.isfinite().all() for row in got.values())
    assert got["zeros"].eq(0).all() and got["tiny"].abs().max() < 1e-6
    assert (kind.name == "Q1_0" or got["alone"][100] > 1) and got["constant"].lt(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_each_other(kind: BlockType) -> None:
    weight = gaussian(130, 512)
    whole = encode(weight, kind)
    assert torch.equal(whole, torch.cat([encode(weight[a : a + 33], kind) for a in range(0, 130, 33)]))
    assert encode(weight[:0], kind).shape == (0, whole.shape[1])


def test_refused() -> None:
    kind = TYPES["Q4_K"]
    with pytest.raises(UsageError, match="rows of 640 weights are not whole Q4_K blocks of 256"):
        encode(torch.zeros(2, 640), kind)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="not finite"):
            encode(torch.full((1, 256), bad), kind)
    for importance in (torch.ones(3), torch.full((256,), -1.0), torch.full((256,), float("nan"))):
        with pytest.raises(DataError, match="importance must be 256"):
            encode(torch.zeros(1, 256), kind, importance)
    assert encode(torch.ones(1, 256), kind, torch.zeros(256)).shape == (1, 144)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(TYPES)), seed=st.integers(0, 1000), power=st.integers(-12, 12))
def test_any_weight_loses_less_than_all(name: str, seed: int, power: int) -> None:
    weight = gaussian(2, 256, seed).pow(3) * 10.0**power
    got = decode(encode(weight, TYPES[name]), TYPES[name])
    assert got.isfinite().all()
    if power > -4 and power < 4:  # within the range of halves
        assert (got - weight).square().sum() < weight.square().sum()
