"""The trellis loses less than planes at the same bytes, and gives bits where they pay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit import trellis as fitting
from tailorbird.formats import PlaneSpec, TrellisSpec
from tailorbird.measure.statistics import Stats
from tailorbird.methods.planes import Planes
from tailorbird.methods.trellis import Trellis


def test_formats() -> None:
    method = Trellis(group_size=64)
    assert method.spec(Part("w", (8, 640), "mlp"), 2) == TrellisSpec.uniform(4, 640, 64)
    for cols, bits in ((640, 5), (70, 2)):
        assert isinstance(method.spec(Part("w", (8, cols), "mlp"), bits), PlaneSpec)
    for beam in (0, 257):
        with pytest.raises(UsageError):
            Trellis(beam=beam)


@pytest.mark.parametrize("bits", [2, 3])
def test_less_is_lost_than_by_planes(bits: int, planted: Any) -> None:
    stats, part = Stats(planted.gram.clone(), None, 1), Part("w", tuple(planted.weight.shape), "mlp")
    errors, sizes = [], []
    for method in (Trellis(), Planes()):
        spec = method.decide(planted.weight.clone(), stats, method.spec(part, bits))
        found = method.fit(planted.weight.clone(), stats, spec).pack()
        errors.append(planted.error(found))
        sizes.append(found.nbytes)
    assert errors[0] < 0.9 * errors[1] and sizes[0] <= sizes[1]


def test_more_bits_where_more_is_lost(layer_of: Any) -> None:
    layer = layer_of(256, 64, 600, [])
    layer.weight[:, :32] *= 5
    stats, method = Stats(layer.gram.clone(), None, 1), Trellis(group_size=32)
    spec = method.spec(Part("w", (64, 256), "mlp"), 2)
    mixed = method.decide(layer.weight.clone(), stats, spec)
    assert mixed.plan(64).nbytes == spec.plan(64).nbytes
    errors = [layer.error(method.fit(layer.weight.clone(), stats, one).pack()) for one in (mixed, spec)]
    assert isinstance(mixed, TrellisSpec) and mixed.halves[0] == max(mixed.halves) and errors[0] < errors[1]
    assert Trellis(mix=False).decide(layer.weight, stats, spec) == spec
    assert method.decide(layer.weight, stats, mixed) == mixed


@pytest.mark.parametrize("halves", [6, 8])
def test_outliers_are_within_reach(halves: int, planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding's rows have numbers of seven deviations; scales by the deviation alone would cut them off."""
    weight = planted.weight.clone()
    weight[:, ::64] = 7 * weight.square().mean(1, keepdim=True).sqrt() * weight[:, ::64].sign()
    stats, spec, errors = Stats(planted.gram.clone(), None, 1), TrellisSpec.uniform(halves, 512, 64), []
    for wider in (fitting.WIDER, (1.0,)):
        monkeypatch.setattr(fitting, "WIDER", wider)
        lost = Trellis().fit(weight.clone(), stats, spec).pack().dequantize() - weight
        errors.append(float((lost @ planted.gram * lost).sum()))
    assert errors[0] < 0.8 * errors[1]


def test_a_row_alone_gives_the_same(planted: Any) -> None:
    stats, method = Stats(planted.gram.clone(), None, 1), Trellis()
    spec = TrellisSpec.uniform(4, 512, 64)
    whole = method.fit(planted.weight.clone(), stats, spec).pack()
    alone = method.fit(planted.weight[5:6].clone(), stats, spec).pack()
    assert torch.equal(whole.arrays["stream"][5:6], alone.arrays["stream"])
