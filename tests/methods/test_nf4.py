"""NF4: every weight goes to its nearest level, and normal numbers lose what is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.fit.levels import fit_levels
from tailorbird.formats import LevelCodes, LevelSpec
from tailorbird.formats.grid import scale_values
from tailorbird.measure.statistics import Stats
from tailorbird.methods.nf4 import NF4

E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


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


@pytest.mark.parametrize(
    ("levels", "size", "scale", "wanted"),
    [
        pytest.param([step / 7 for step in range(-8, 8)], 32, "fp16", 0.00955, id="int4, groups of 32"),
        pytest.param([step / 7 for step in range(-8, 8)], 64, "fp16", 0.01174, id="int4, groups of 64"),
        # NVFP4 but for its scales, which are 8-bit floats: ours are 8-bit integers under a half a row.
        pytest.param([sign * step / 6 for sign in (-1, 1) for step in E2M1], 16, "u8", 0.00910, id="nvfp4"),
    ],
)
def test_normal_numbers_on_other_levels(levels: list[float], size: int, scale: Any, wanted: float) -> None:
    """Mean squared errors as known of these types, under the same fitter."""
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))
    spec = LevelSpec(4, 1024 // size, size, "stored", scale)
    packed = fit_levels(weight, spec, torch.tensor(sorted(levels))).pack()
    assert float((packed.dequantize() - weight).square().mean()) == pytest.approx(wanted, rel=0.03)
    # No levels lose as little as NormalFloat's in groups of 64, at more or fewer bits.
    assert float((packed.dequantize() - weight).square().mean()) > float(
        (rounded(weight).dequantize() - weight).square().mean()
    )


def test_bytes() -> None:
    assert LevelSpec(4, 16, 64).plan(1).nbytes == 1024 // 2 + 16 + 2
    assert NF4().spec(Part("w", (8, 1024), "mlp"), 4) == LevelSpec(4, 16, 64)
