"""The factor the sweep reads."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.fit.hessian import sweep_factor


def test_it_factors_the_inverse(layer_of: Any, naive: SimpleNamespace) -> None:
    gram = layer_of(60, 2, 300, [4]).gram
    before = gram.clone()
    upper, dead = sweep_factor(gram, 0.02)
    assert not dead.any() and torch.equal(gram, before)
    assert torch.equal(upper, upper.triu())
    product = upper.double().T @ upper.double() @ naive.damped(gram, 0.02)
    assert torch.allclose(product, torch.eye(60, dtype=torch.float64), atol=1e-3)


def test_one_token_is_enough() -> None:
    x = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    upper, _ = sweep_factor(x.T @ x)
    assert torch.isfinite(upper).all()


@pytest.mark.parametrize("damp", [0.0, 1e-9, 0.01])
def test_ill_conditioned_matrices_are_damped_until_they_have_a_factor(damp: float) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-6, 6, 40)
    upper, _ = sweep_factor(x.T @ x, damp)
    assert torch.isfinite(upper).all() and (upper.diagonal() > 0).all()


def test_hopeless_matrices_end_in_an_error() -> None:
    with pytest.raises(DataError, match="singular"):
        sweep_factor(-torch.ones(4, 4) - 100 * torch.eye(4))


@pytest.mark.parametrize("damp", [-0.01, 11.0, math.nan, math.inf])
def test_a_damping_out_of_range_is_refused(damp: float) -> None:
    with pytest.raises(UsageError, match="damp"):
        sweep_factor(torch.eye(3), damp)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    gram = torch.eye(4)
    gram[2, 2] = bad
    with pytest.raises(DataError, match="not finite"):
        sweep_factor(gram)
