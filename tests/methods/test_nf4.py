"""NF4: every weight goes to its nearest level, and normal numbers lose what is known."""

from __future__ import annotations

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.formats import LevelCodes, LevelSpec
from tailorbird.formats.grid import scale_values
from tailorbird.measure.statistics import Stats
from tailorbird.methods.nf4 import NF4


def rounded(weight: torch.Tensor, scale: str = "u8") -> LevelCodes:
    method = NF4.from_options({"scale": scale})
    packed = method.fit(weight.clone(), Stats(), method.spec(Part("w", tuple(weight.shape), "mlp"), 4)).pack()
    assert isinstance(packed, LevelCodes)
    return packed


@pytest.mark.parametrize("scale", ["u8", "fp16"])
def test_the_nearest_level(scale: str) -> None:
    weight = torch.randn(20, 128, generator=torch.Generator().manual_seed(1))
    packed = rounded(weight, scale)
    choices = scale_values(packed.arrays).repeat_interleave(64, 1)[..., None] * packed.levels
    nearest = (choices - weight[..., None]).abs().amin(2)
    assert torch.allclose((packed.dequantize() - weight).abs(), nearest, atol=1e-6)


def test_normal_numbers() -> None:
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))
    lost = float((rounded(weight, "fp16").dequantize() - weight).square().mean())
    assert lost == pytest.approx(0.00851, rel=0.03)
    assert float((rounded(weight).dequantize() - weight).square().mean()) <= 1.02 * lost


def test_bytes() -> None:
    assert LevelSpec(4, 16, 64).plan(1).nbytes == 1024 // 2 + 16 + 2
    assert NF4().spec(Part("w", (8, 1024), "mlp"), 4) == LevelSpec(4, 16, 64)
