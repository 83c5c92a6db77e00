"""Hadamard matrices and rotations made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.transform.rotation import hadamard, random_rotation

# Widths of models: 640, 896, 960, 1152 and 2304 need cores of 20, 28, 60 and 36.
ORDERS = [1, 2, 12, 20, 28, 36, 40, 44, 60, 64, 76, 96, 128, 256, 576, 640, 896, 960, 1152, 1536, 2304]


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 28, 32, 36, 44, 48, 60, 68, 76, 84, 108, 124, 180])
def test_hadamard_matrices(order: int) -> None:
    made = hadamard(order)
    assert (made.abs() == 1).all()
    assert torch.equal(made @ made.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", ORDERS)
def test_rotations_are_orthogonal_and_spread_evenly(order: int) -> None:
    rotation = random_rotation(order, torch.Generator().manual_seed(0))
    matrix = rotation.matrix()
    assert torch.allclose(matrix @ matrix.T, torch.eye(order, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, order**-0.5), atol=1e-12)
    x = torch.randn(3, 2 * order, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rotation(x).view(3, 2, order), x.double().view(3, 2, order) @ matrix, atol=1e-12)


@pytest.mark.parametrize("order", [3, 6, 14, 46])
def test_other_orders_are_orthogonal_too(order: int) -> None:
    matrix = random_rotation(order, torch.Generator().manual_seed(0)).matrix()
    assert torch.allclose(matrix @ matrix.T, torch.eye(order, dtype=torch.float64), atol=1e-12)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Four bits, symmetric, one scale a row."""
    scale = x.abs().amax(1, keepdim=True) / 7
    return (x / scale).round().clamp(-8, 7) * scale


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rounding_activations_with_large_channels(seed: int, layer_of: Any) -> None:
    """Four-bit weights and activations: a prototype lost .115 to .137 plainly and .027 to .030 rotated."""
    layer = layer_of(512, 128, 256, [], seed)
    generator = torch.Generator().manual_seed(seed)
    layer.inputs[:, torch.randperm(512, generator=generator)[:8]] *= 30
    x, weight, rotation = layer.inputs.double(), layer.weight.double(), random_rotation(512, generator)
    wanted = x @ weight.T
    plain, turned = (
        float((rounded(inputs) @ rounded(rows).T - wanted).square().sum() / wanted.square().sum())
        for inputs, rows in ((x, weight), (rotation(x), rotation(weight)))
    )
    assert 0.02 < turned < 0.035 and turned <= plain / 3
