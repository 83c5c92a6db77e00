"""Learning a rotation by Cayley SGD (SpinQuant, arXiv 2405.16406).

What is minimised is the error that rounding the rotated weights is expected to cause at the layers' outputs. A group
whose range is r rounds with errors of variance proportional to r^2, independent of each other, so that a layer loses

    sum over rows and groups of r^2 * sum over the group's columns of mean x^2,

relative to the mean square of its outputs; the number of bits drops out. Some rows (or, of layers that write what is
rotated, some groups) and some tokens stand for all, and at every step some layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

RATE = 1.5
STEPS = 100
# Layers that a step sees.
BATCH = 16


class Term(Protocol):
    """What one layer loses under a rotation."""

    def __call__(self, turn: Tensor) -> Tensor:
        """Relative expected error, a scalar; `turn` is the rotation (order, order), in the dtype of the weights."""
        ...


@dataclass(frozen=True)
class Reader:
    """A layer whose inputs are rotated: W R, x R.

    Attributes:
        weight: (rows, order).
        inputs: (tokens, order); None where every input is one column (an embedding).
        group_size: columns that share a range.
    """

    weight: Tensor
    inputs: Tensor | None
    group_size: int

    def __call__(self, turn: Tensor) -> Tensor:
        """See `Term`."""
        turn = turn.to(self.weight.dtype)
        if self.inputs is None:
            power, outputs = torch.ones(len(turn), dtype=turn.dtype), self.weight
        else:
            power, outputs = (self.inputs @ turn).square().mean(0), self.inputs @ self.weight.T
        return _expected(self.weight @ turn, power, self.group_size) / (outputs.square().mean() * outputs.shape[-1])


@dataclass(frozen=True)
class Writer:
    """A layer whose outputs are rotated: R^T W.

    Attributes:
        weight: (order, columns), whole groups of columns.
        inputs: (tokens, columns).
        group_size: columns that share a range.
    """

    weight: Tensor
    inputs: Tensor
    group_size: int

    def __call__(self, turn: Tensor) -> Tensor:
        """See `Term`."""
        outputs = self.inputs @ self.weight.T
        lost = _expected(turn.to(self.weight.dtype).T @ self.weight, self.inputs.square().mean(0), self.group_size)
        return lost / outputs.square().sum(1).mean()


def _expected(weight: Tensor, power: Tensor, group_size: int) -> Tensor:
    groups = weight.reshape(len(weight), -1, group_size)
    reach = groups.amax(2) - groups.amin(2)
    return (reach.square() * power.view(-1, group_size).sum(1)).sum()


def learn(terms: Sequence[Term], order: int, seed: int = 0, steps: int = STEPS, rate: float = RATE) -> Tensor:
    """A rotation, float64 (order, order), under which the terms' mean is less than under none.

    The logarithm of the mean is what descends, so that the rate means the same for every model; the rate falls along a
    cosine.

    Args:
        terms: what the layers lose.
        order: of the rotation.
        seed: of the choice of layers at every step.
        steps: how many.
        rate: of the first step.
    """
    generator = torch.Generator().manual_seed(seed)
    start = turn = torch.eye(order, dtype=torch.float64)
    for step in range(steps):
        some = torch.randperm(len(terms), generator=generator)[:BATCH].tolist()
        gradient = _gradient([terms[i] for i in some], turn)
        turn = cayley(turn, gradient, rate * (1 + math.cos(math.pi * step / steps)) / 2)
    with torch.no_grad():
        return turn if loss(terms, turn) < loss(terms, start) else start


def loss(terms: Sequence[Term], turn: Tensor) -> Tensor:
    """Logarithm of the terms' mean."""
    return torch.stack([term(turn).double() for term in terms]).mean().log()


def cayley(turn: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """One step down the gradient that leaves the matrix orthogonal.

    A = B - B^T with B = G R^T - R (R^T G R^T) / 2; R <- (I + a/2 A)^-1 (I - a/2 A) R, a = min(rate, 1 / |A|_1).
    """
    half = gradient @ turn.T - turn @ (turn.T @ gradient @ turn.T) / 2
    skew = half - half.T
    size = float(torch.linalg.matrix_norm(skew, 1))
    step = min(rate, 1 / size) / 2 * skew if size else skew
    one = torch.eye(len(turn), dtype=turn.dtype)
    return torch.as_tensor(torch.linalg.solve(one + step, (one - step) @ turn))


def _gradient(terms: Sequence[Term], turn: Tensor) -> Tensor:
    with torch.enable_grad():
        turn = turn.detach().requires_grad_()
        return torch.autograd.grad(loss(terms, turn), turn)[0]
