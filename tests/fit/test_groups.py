"""Ranges of groups, and the search for better ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.fit.groups import minmax
from tailorbird.fit.search import RangeSearch

OFFSETS = ["none", "integer", "float"]


def group_of(size: int, rows: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(size, rows, generator=torch.Generator().manual_seed(seed)) + shift


@given(st.integers(1, 40), st.integers(2, 8), st.sampled_from(OFFSETS), st.integers(0, 2**31), st.floats(-2, 2))
def test_minmax_reaches_every_weight(size: int, bits: int, offset: Any, seed: int, shift: float) -> None:
    w = group_of(size, 6, seed, shift)
    scale, start = minmax(w, bits, offset)
    assert (scale > 0).all() and scale.shape == start.shape == (6,)
    code = ((w - start) / scale).round().clamp(0, 2**bits - 1)
    # A symmetric range has one code less above zero, and a zero point is a whole number: half a step is lost there.
    reach = 1.001 if offset == "none" else 0.501 if offset == "float" else 1.001
    assert ((code * scale + start - w).abs() <= reach * scale + 1e-6).all()
    if offset != "float":
        zero = -start / scale
        assert torch.allclose(zero, zero.round(), atol=1e-3)
        assert (zero.round() >= 0).all() and (zero.round() <= 2**bits - 1).all()


@given(st.integers(1, 40), st.sampled_from(OFFSETS), st.integers(0, 2**31))
def test_one_bit_keeps_the_mean_magnitude(size: int, offset: Any, seed: int) -> None:
    w = group_of(size, 5, seed, 0.3)
    scale, start = minmax(w, 1, offset)
    centre = w.mean(0) if offset == "float" else torch.zeros(5)
    reach = (w - centre).abs().mean(0)
    assert torch.allclose(start, centre - reach, atol=1e-6)
    assert torch.allclose(start + scale, centre + reach, atol=1e-6)


def test_a_group_of_zeros_has_a_range() -> None:
    for bits in (1, 2, 4):
        for offset in OFFSETS:
            scale, start = minmax(torch.zeros(8, 3), bits, offset)  # type: ignore[arg-type]
            assert (scale > 0).all() and torch.isfinite(start).all()


@given(
    st.integers(1, 64),
    st.integers(1, 8),
    st.sampled_from(OFFSETS),
    st.integers(0, 2**31),
    st.lists(st.floats(0.05, 2.0), max_size=12),
)
def test_search_never_loses_to_minmax(size: int, bits: int, offset: Any, seed: int, ratios: list[float]) -> None:
    w = group_of(size, 7, seed)
    search = RangeSearch(ratios)
    plain, best = minmax(w, bits, offset), search(w, bits, offset)
    assert (search.error(w, *best, bits) <= search.error(w, *plain, bits)).all()


@pytest.mark.parametrize("offset", OFFSETS)
def test_search_finds_the_best_of_its_ratios(offset: Any) -> None:
    w = group_of(128, 9, 5)
    ratios = [0.5, 0.7, 0.9, 1.05]
    error = RangeSearch([]).error
    losses = [error(w, *RangeSearch([ratio])(w, 2, offset), 2) for ratio in ratios]
    found = error(w, *RangeSearch(ratios)(w, 2, offset), 2)
    assert torch.equal(found, torch.stack(losses).amin(0))
    assert (found < error(w, *minmax(w, 2, offset), 2)).all()


def test_error_is_the_sum_of_powers() -> None:
    w = group_of(11, 3, 1)
    scale, start = minmax(w, 3, "integer")
    stored = ((w - start) / scale).round().clamp(0, 7) * scale + start
    assert torch.allclose(RangeSearch([]).error(w, scale, start, 3), ((w - stored).abs() ** 2.4).sum(0), rtol=1e-4)
