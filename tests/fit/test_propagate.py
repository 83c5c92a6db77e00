"""What a layer is asked for where its inputs have lost something."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.fit.hessian import sweep_factor
from tailorbird.fit.propagate import DAMP, propagated


def met(tokens: int = 400, cols: int = 24, lost: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, y = torch.randn(10, cols, generator=generator), torch.randn(tokens, cols, generator=generator)
    x = y + lost * torch.randn(tokens, cols, generator=generator)
    return weight, x, y


def moved(weight: Tensor, x: Tensor, y: Tensor, share: float) -> Tensor:
    return propagated(weight, (y - x).T @ x, sweep_factor(x.T @ x, DAMP)[0], share)


def test_it_is_the_damped_least_squares_solution() -> None:
    weight, x, y = met()
    gram = (x.T @ x).double()
    gram += DAMP * gram.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    gap = (y - x).double()
    wanted = weight.double() + torch.linalg.solve(gram, (weight.double() @ gap.T @ x.double()).T).T
    assert torch.allclose(moved(weight, x, y, 1.0).double(), wanted, atol=1e-5)


def test_the_outputs_come_nearer_by_the_share() -> None:
    weight, x, y = met()
    errors = [float((x @ moved(weight, x, y, share).T - y @ weight.T).square().sum()) for share in (0, 0.5, 1)]
    assert errors[0] > errors[1] > errors[2]
    best = float((y @ weight.T - x @ torch.linalg.lstsq(x, y @ weight.T).solution).square().sum())
    assert best <= errors[2] < 1.03 * best
    assert torch.equal(moved(weight, x, y, 0.0), weight)


def test_nothing_lost_is_nothing_to_make_up_for() -> None:
    weight, x, y = met(lost=0.0)
    assert torch.equal(moved(weight, x, y, 1.0), weight)
