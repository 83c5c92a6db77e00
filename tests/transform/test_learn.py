"""Learning rotations: what is orthogonal stays so, and what is minimised falls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.transform.learn import Reader, Term, Writer, cayley, learn, loss

ORDER = 32


def terms(layer_of: Any) -> list[Term]:
    """Two readers and a writer of a stream with large channels."""
    found: list[Term] = []
    for seed in range(2):
        layer = layer_of(ORDER, 40, 64, [3, 20], seed)
        found.append(Reader(layer.weight.double(), layer.inputs.double(), 16))
    layer = layer_of(48, ORDER, 64, [7], 5)
    return [*found, Writer(layer.weight.double(), layer.inputs.double(), 24)]


def test_orthogonal_and_no_worse(layer_of: Any) -> None:
    # More than a step sees.
    given, one = 6 * terms(layer_of), torch.eye(ORDER, dtype=torch.float64)
    turn = learn(given, ORDER, steps=40)
    assert torch.allclose(turn @ turn.T, one, atol=1e-12)
    assert loss(given, turn) < loss(given, one) - 0.1
    assert torch.equal(learn(given, ORDER, steps=40), turn)


@pytest.mark.parametrize("rate", [1e-3, 1.5, 1e6])
def test_a_step_stays_orthogonal(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))[0]
    for _ in range(50):
        turn = cayley(turn, 100 * torch.randn(20, 20, generator=generator, dtype=torch.float64), rate)
    assert torch.allclose(turn @ turn.T, torch.eye(20, dtype=torch.float64), atol=1e-12)


def test_a_step_goes_down(layer_of: Any) -> None:
    given = terms(layer_of)
    turn = torch.eye(ORDER, dtype=torch.float64).requires_grad_()
    before = loss(given, turn)
    (gradient,) = torch.autograd.grad(before, turn)
    assert float(loss(given, cayley(turn.detach(), gradient, 1e-3))) < float(before.detach())


def test_the_expected_error_is_that_of_rounding(layer_of: Any) -> None:
    """For 6 bits, range^2 / 12 (2^6 - 1)^2 a weight is what rounding loses."""
    layer = layer_of(64, 200, 400, [3, 40])
    weight, inputs = layer.weight.double(), layer.inputs.double()
    groups = weight.view(200, 4, 16)
    low, step = groups.amin(2, keepdim=True), (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / 63
    lost = (((groups - low) / step).round() * step + low).view_as(weight) - weight
    measured = float((inputs @ lost.T).square().sum() / (inputs @ weight.T).square().sum())
    expected = float(Reader(weight, inputs, 16)(torch.eye(64, dtype=torch.float64))) / 12 / 63**2
    assert expected == pytest.approx(measured, rel=0.25)
    assert float(Writer(weight, inputs, 16)(torch.eye(200, dtype=torch.float64))) == pytest.approx(
        expected * 12 * 63**2
    )
