"""Planes: less error than the sweep alone at no more bytes, and the format that suits a weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.formats import PlaneSpec, SumSpec
from tailorbird.measure.statistics import Stats
from tailorbird.methods.gptq import GPTQ
from tailorbird.methods.planes import Planes


def compressed(layer: Any, method: Any, bits: int) -> Any:
    stats = Stats(layer.gram.clone(), layer.inputs, len(layer.inputs))
    spec = method.decide(layer.weight.clone(), stats, method.spec(Part("w", tuple(layer.weight.shape), "mlp"), bits))
    return method.fit(layer.weight.clone(), stats, spec).pack()


@pytest.mark.parametrize(("bits", "share"), [(1, 0.75), (2, 0.6), (3, 0.75), (4, 0.85)])
def test_planted_layer(planted: Any, bits: int, share: float) -> None:
    sweep = compressed(planted, GPTQ(), bits)
    ours = compressed(planted, Planes(), bits)
    assert ours.nbytes <= sweep.nbytes
    assert planted.error(ours) <= share * planted.error(sweep)


def test_free_planes_win_where_levels_are_not_evenly_spaced() -> None:
    """Weights of four magnitudes that no affine code of two bits has."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, 64, 512), generator=generator) * 2.0 - 1
    weight = signs[0] + 0.2 * signs[1]
    stats, method = Stats(torch.eye(512)), Planes(mix=False)
    spec = method.decide(weight, stats, method.spec(Part("w", (64, 512), "mlp"), 2))
    assert spec == SumSpec.free((2,) * 4, 128)
    lost = method.fit(weight.clone(), stats, spec).pack().dequantize() - weight
    assert lost.abs().max() < 0.02
    assert Planes(free=False, mix=False).decide(weight, stats, PlaneSpec.uniform(2, 512, 64)).kind == "planes"


def test_bits_go_where_most_is_lost(planted: Any) -> None:
    spec = Planes(free=False).decide(planted.weight, Stats(planted.gram), PlaneSpec.uniform(2, 512, 64))
    assert isinstance(spec, PlaneSpec) and spec.mixed and spec.mean_bits == 2
    # The large channels are 130 to 137.
    assert spec.bits[130 // spec.group_size] == max(spec.bits)


def test_a_plan_of_unequal_planes_is_fitted_as_it_is(layer_of: Any) -> None:
    layer, spec = layer_of(96, 12, 200, [3]), SumSpec.free((1, 2, 3), 32, "fp16")
    packed = Planes().fit(layer.weight.clone(), Stats(layer.gram), spec).pack()
    assert packed.spec == spec and Planes().decide(layer.weight, Stats(layer.gram), spec) == spec
    assert all(len(row.unique()) <= 2 for row in packed.dequantize()[:, :32])


@pytest.mark.parametrize("bad", [{"rounds": -1}, {"descents": -1}, {"polish": -1}])
def test_numbers_of_times(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Planes.from_options(bad)
