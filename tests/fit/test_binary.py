"""Binarizers on normal numbers: the known errors, and what never makes them larger."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.fit import binary

NORMAL = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))


def error(x: torch.Tensor, values: torch.Tensor) -> float:
    return float((x - values).square().sum() / x.square().sum())


def test_normal_numbers() -> None:
    assert error(NORMAL, binary.total(binary.residual(NORMAL, 1))) == pytest.approx(1 - 2 / math.pi, abs=0.005)
    assert error(NORMAL, binary.total(binary.residual(NORMAL, 2))) == pytest.approx(0.131, abs=0.01)


def test_the_best_split_of_normal_numbers() -> None:
    candidates = torch.linspace(0.5, 1.5, 201)
    best = binary.best_threshold(NORMAL, candidates)
    assert float(best) == pytest.approx(0.975, abs=0.05)
    assert error(NORMAL, binary.total(binary.split(NORMAL, best, NORMAL))) == pytest.approx(0.1185, abs=0.003)
    whole = binary.total(binary.split(NORMAL, torch.tensor(math.inf), NORMAL))
    assert error(NORMAL, whole) == pytest.approx(1 - 2 / math.pi, abs=0.005)


@given(st.integers(1, 30), st.integers(1, 6), st.booleans(), st.integers(0, 2**31))
def test_more_never_loses(cols: int, rows: int, shift: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(cols, rows, generator=generator)
    errors = [error(x, binary.total(binary.residual(x, order, shift=shift))) for order in (1, 2, 3, 4)]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(errors))
    for quantiles in (False, True):
        candidates = binary.thresholds(x, quantiles)
        best = binary.best_threshold(x, torch.cat([candidates, torch.tensor([math.inf])]), shift)
        assert error(x, binary.total(binary.split(x, best, x, shift))) <= errors[0] + 1e-6
    mask = torch.rand(cols, rows, generator=generator) < 0.5
    part = binary.binarize(x, mask, shift)
    assert torch.isfinite(part.values).all() and (part.values[~mask] == 0).all()


def test_signs_of_zero_and_empty_masks() -> None:
    x = torch.zeros(4, 2)
    assert (binary.binarize(x).sign == 1).all()
    nothing = binary.binarize(torch.ones(4, 2), torch.zeros(4, 2, dtype=torch.bool), True)
    assert (nothing.values == 0).all() and (nothing.magnitude == 0).all()
