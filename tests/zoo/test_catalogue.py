"""The loss over a whole catalogue: torch's own, value and gradients, whatever fits in the room."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.zoo.recommenders import catalogue
from tailorbird.zoo.recommenders.catalogue import cross_entropy


def numbers(*, bias: bool, size: float = 1.0) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(3)
    shapes = [(50, 8), (30, 8), (30,)] if bias else [(50, 8), (30, 8)]
    return [(size * torch.randn(shape, dtype=torch.float64)).requires_grad_() for shape in shapes], torch.randint(
        0, 30, (50,)
    )


def gradients(loss: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(3 * loss, list(leaves)))


@pytest.mark.parametrize("room", [1, 30 * 7, 2**20])
@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_torchs(room: int, size: float, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ROOM", room)
    monkeypatch.setattr(catalogue, "FEWEST", 1)
    leaves, target = numbers(bias=bias, size=size)
    vectors, table, *rest = leaves
    found = cross_entropy(vectors, table, target, *rest)
    wanted = functional.cross_entropy(functional.linear(vectors, table, *rest), target)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(gradients(found, leaves), gradients(wanted, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_frozen_table_gets_no_gradient() -> None:
    (vectors, table), target = numbers(bias=False)
    cross_entropy(vectors, table.detach(), target).backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None and table.grad is None
