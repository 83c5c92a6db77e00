"""Layers to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tailorbird.formats import BitPlanes


@dataclass(frozen=True)
class Layer:
    """A weight (rows, cols), its inputs (tokens, cols) and their Gram matrix."""

    weight: Tensor
    inputs: Tensor
    gram: Tensor

    def error(self, planes: BitPlanes) -> float:
        """Relative output error."""
        lost, gram = (planes.dequantize() - self.weight).double(), self.gram.double()
        return float((lost @ gram * lost).sum() / (self.weight.double() @ gram * self.weight).sum())


def make_layer(cols: int, rows: int, tokens: int, planted: list[int], seed: int = 0) -> Layer:
    """Heavy-tailed weights; inputs in directions of falling variance, `planted` channels twelve times as large."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, cols + 1).pow(-0.5) * (cols / 10) ** 0.5
    turn = torch.linalg.qr(torch.randn(cols, cols, generator=generator))[0]
    inputs = torch.randn(tokens, cols, generator=generator) * spread @ turn
    inputs[:, planted] *= 12
    uniform = torch.rand(rows, cols, generator=generator).clamp(1e-6, 1 - 1e-6) - 0.5
    weight = -uniform.sign() * (1 - 2 * uniform.abs()).log() / cols**0.5  # Laplace
    return Layer(weight, inputs, inputs.T @ inputs)


@pytest.fixture(scope="session")
def layer_of() -> Callable[..., Layer]:
    """`make_layer`."""
    return make_layer


@pytest.fixture(scope="session")
def planted() -> Layer:
    """512 x 96, 8 channels x12 inside the second group of 128."""
    return make_layer(512, 96, 1024, list(range(130, 138)))


@pytest.fixture(scope="session")
def planted_wide() -> Layer:
    """1024 x 96, 8 channels x12 inside the second group of 128."""
    return make_layer(1024, 96, 1024, list(range(130, 138)))


@pytest.fixture(scope="session")
def naive() -> SimpleNamespace:
    """The module `naive`."""
    return SimpleNamespace(**run_path(str(Path(__file__).with_name("naive.py"))))
