"""Rows of packed weights times factors, in every format that methods make."""

from __future__ import annotations

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.measure.statistics import Stats
from tailorbird.methods import find


@pytest.mark.parametrize("scale", ["u8", "fp16"])
@pytest.mark.parametrize("name", ["rtn", "hqq", "nf4", "trellis", "planes", "billm", "pb-llm", "slim-llm"])
def test_only_halves_change(name: str, scale: str) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(24, 128), torch.randn(200, 128)
    method = find(name).from_options({"scale": scale, "group_size": 32})
    spec = method.spec(Part("a", (24, 128), "mlp", 0), 2)
    packed = method.fit(weight, Stats(x.T @ x, x, 200), spec).pack()
    factors = torch.linspace(0.5, 2, 24)
    scaled = packed.scaled(factors)
    assert scaled.nbytes == packed.nbytes and scaled.spec == packed.spec
    wanted = packed.dequantize() * factors[:, None]
    assert (scaled.dequantize() - wanted).norm() < 1e-3 * wanted.norm()
    changed = [n for n, array in packed.arrays.items() if not torch.equal(array, scaled.arrays[n])]
    assert changed and all(packed.arrays[n].dtype is torch.float16 for n in changed)
    same = packed.scaled(torch.ones(24))
    assert all(torch.equal(array, same.arrays[n]) for n, array in packed.arrays.items())
