"""Rounding against its formula.

scale = (hi - lo) / (2^b - 1), zero = round(-lo / scale), q = clamp(round(w / scale) + zero), lo <= 0 <= hi.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.anatomy import Part
from tailorbird.formats.grid import Grid
from tailorbird.measure.statistics import Stats
from tailorbird.methods.rtn import RTN


def naive(weight: torch.Tensor, bits: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, and how far each weight lies from the middle between two codes; one group a row."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    empty = (low == 0) & (high == 0)
    low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
    exact = (high - low) / (2**bits - 1)
    scale = exact.to(torch.float16).float()
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else (-low / exact).round()
    steps = weight / scale
    return (steps.round() + zero).clamp(0, 2**bits - 1), (steps - steps.floor() - 0.5).abs()


@given(st.integers(1, 9), st.integers(1, 33), st.integers(2, 8), st.booleans(), st.integers(0, 2**31))
def test_codes_are_the_formula(rows: int, cols: int, bits: int, symmetric: bool, seed: int) -> None:
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    method = RTN(group_size=cols, scale="fp16", symmetric=symmetric)
    fitted = method.fit(weight.clone(), Stats(), method.spec(Part("w", (rows, cols), "mlp"), bits))
    codes, margin = naive(weight, bits, symmetric)
    differ = fitted.codes.float() != codes
    assert (margin[differ] < 1e-3).all()
    assert ((fitted.codes.float() - codes)[differ].abs() <= 1).all()


@pytest.mark.parametrize("scale", ["fp16", "u8"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_weight_goes_to_its_nearest_code(bits: int, scale: str) -> None:
    weight = torch.randn(12, 60, generator=torch.Generator().manual_seed(bits))
    method = RTN.from_options({"group_size": 20, "scale": scale})
    planes = method.fit(weight.clone(), Stats(), method.spec(Part("w", (12, 60), "mlp"), bits)).pack()
    step, start = (value[:, :, None] for value in Grid(planes.spec, planes.arrays).values())
    choices = start[..., None] + step[..., None] * torch.arange(2**bits)
    nearest = (choices - weight.view(12, 3, 20, 1)).abs().amin(3)
    assert torch.allclose((planes.dequantize() - weight).abs().view(12, 3, 20), nearest, atol=1e-6)


def test_it_needs_no_data() -> None:
    assert RTN.needs == frozenset()
