"""Orthogonal matrices that spread large values evenly, and are quick to multiply by.

Hadamard matrices have entries +-1 and orthogonal rows. One of order 2^k * m is the Kronecker product of one of order m
and of k times [[1, 1], [1, -1]]; those of order m are Paley's (J. Math. Phys. 12, 1933), from squares modulo a prime q:
m = q + 1 for q = 3 modulo 4, m = 2 (q + 1) for q = 1 modulo 4. A random sign for every input makes it a random rotation
(QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Factors of two that are multiplied out at once.
SIDE = 64


@dataclass(frozen=True)
class Rotation:
    """R = diag(signs) (A x B x ...): orthogonal, float64.

    Attributes:
        factors: square orthogonal matrices A, B, ...; their orders multiply to the order of R.
        signs: (order,).
    """

    factors: tuple[Tensor, ...]
    signs: Tensor

    @classmethod
    def dense(cls, matrix: Tensor) -> Rotation:
        """A matrix as it is."""
        return cls((matrix,), torch.ones(len(matrix), dtype=torch.float64))

    @property
    def order(self) -> int:
        """Rows of R."""
        return len(self.signs)

    def __call__(self, x: Tensor) -> Tensor:
        """x R for every run of `order` numbers along the last dimension, float64 in the shape of `x`."""
        y = (x.double().reshape(-1, self.order) * self.signs).view(-1, *map(len, self.factors))
        for axis, factor in enumerate(self.factors, 1):
            y = (y.movedim(axis, -1) @ factor).movedim(-1, axis)
        return y.reshape(x.shape)

    def matrix(self) -> Tensor:
        """R itself."""
        return self(torch.eye(self.order, dtype=torch.float64))


def random_rotation(order: int, generator: torch.Generator) -> Rotation:
    """A Hadamard rotation with random signs; a random orthogonal one where no Hadamard matrix of that order is built
    here."""
    core = next((order >> k for k in reversed(range(order.bit_length())) if _splits(order, k)), 0)
    signs = torch.randint(0, 2, (order,), generator=generator).double() * 2 - 1
    if not core:
        return Rotation(
            (torch.linalg.qr(torch.randn(order, order, generator=generator, dtype=torch.float64))[0],), signs
        )
    sides, left = [core], order // core
    while left > 1:
        sides.append(min(left, SIDE))
        left //= sides[-1]
    return Rotation(tuple(hadamard(side) / side**0.5 for side in sides), signs)


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix, float64; `order` is a power of two or one of Paley's."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order & (order - 1) == 0:
        made = torch.ones(1, 1, dtype=torch.float64)
        while len(made) < order:
            made = torch.kron(made, two)
        return made
    if _prime(order - 1) and order % 4 == 0:
        return _conference(order - 1) + torch.eye(order, dtype=torch.float64)
    twist = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(_conference(order // 2 - 1), two) + torch.kron(torch.eye(order // 2, dtype=torch.float64), twist)


def _splits(order: int, k: int) -> bool:
    """Whether 2^k divides the order and leaves one that `hadamard` has."""
    core = order >> k
    if core << k != order:
        return False
    paley = core % 4 == 0 and (_prime(core - 1) or (core % 8 == 4 and _prime(core // 2 - 1)))
    return core == 1 or paley


def _conference(q: int) -> Tensor:
    """Paley's matrix of order q + 1: zero diagonal, +-1 elsewhere, orthogonal rows; skew for q = 3 modulo 4."""
    squares = torch.zeros(q, dtype=torch.float64) - 1
    squares[torch.arange(1, q).square() % q] = 1
    squares[0] = 0
    places = torch.arange(q)
    made = torch.ones(q + 1, q + 1, dtype=torch.float64)
    made[1:, 1:] = squares[(places[:, None] - places) % q]
    made[1:, 0] = -1 if q % 4 == 3 else 1
    made[0, 0] = 0
    return made


def _prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))
