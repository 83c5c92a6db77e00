"""Descent: no step makes the error larger, and what is stored is what was weighed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import UsageError
from tailorbird.fit.coders import AffineCoder, PlaneCoder, residual_scales
from tailorbird.fit.descent import Group, Schedule, _descend, _refit, code_rows
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import damped, sweep_factor
from tailorbird.fit.planes import fit_affine, fit_free
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec, SumSpec, Term
from tailorbird.formats.grid import Units

NONE = Schedule(0, 0, 0)


def loss(layer: Any, dense: torch.Tensor, gram: torch.Tensor) -> float:
    lost = (dense - layer.weight).double()
    return float((lost @ gram.double() * lost).sum())


@pytest.mark.parametrize("offset", ["none", "integer", "float"])
@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_without_rounds_and_passes_it_is_the_sweep(layer_of: Any, bits: int, offset: Any) -> None:
    layer = layer_of(96, 12, 300, [3, 40])
    upper, _ = sweep_factor(layer.gram)
    spec = PlaneSpec.uniform(bits, 96, 24, offset, "fp16")
    one = fit_affine(layer.weight, spec, minmax, layer.gram, upper, NONE).pack().dequantize()
    other = sweep(layer.weight.clone(), spec, minmax, upper).pack().dequantize()
    # Sums in another order may move a weight that lies in the middle between two codes.
    assert (one - other).abs().gt(1e-5).float().mean() < 0.1


@pytest.mark.parametrize(
    "spec",
    [
        PlaneSpec.uniform(1, 96, 24), PlaneSpec.uniform(2, 96, 24), PlaneSpec.uniform(3, 96, 24, "float"),
        PlaneSpec((1, 2, 4, 3), 24, "none", "fp16"), SumSpec.free((2,) * 4, 24), SumSpec.free((1, 3, 2, 4), 24, "fp16"),
    ],
    ids=lambda spec: spec.label,
)  # fmt: skip
def test_more_work_loses_less(layer_of: Any, spec: Any) -> None:
    layer = layer_of(96, 40, 300, [3, 40])
    upper, _ = sweep_factor(layer.gram)
    gram, _ = damped(layer.gram, 0.01)
    losses = []
    for how in (NONE, Schedule(0, 0, 1), Schedule(0, 0, 3), Schedule(2, 1, 3)):
        if isinstance(spec, SumSpec):
            fitted: Any = fit_free(layer.weight, spec, gram, upper, how)
        else:
            fitted = fit_affine(layer.weight, spec, minmax, gram, upper, how)
        losses.append(loss(layer, fitted.pack().dequantize(), gram))
    assert losses[0] * 1.0001 >= losses[1] >= losses[2] * 0.9999
    assert losses[3] < losses[0]


@given(st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_a_step_never_loses(planes: int, affine: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w, x = torch.randn(16, 9, generator=generator), torch.randn(40, 16, generator=generator)
    metric = x.T @ x
    if affine:
        spec = PlaneSpec((planes,), 16)
        scale, offset = minmax(w, planes, "integer")
        coder: Any = AffineCoder(spec, Units.of(scale[:, None], offset[:, None], spec), minmax)
    else:
        spec = PlaneSpec((1,), 16, "none")
        scales = residual_scales(w, planes)
        coder = PlaneCoder(spec, tuple(Units.of(s[:, None], s[:, None], spec, 1.25) for s in scales))
    numbers = coder.snap(coder.start(w))
    found = [coder.nearest(numbers)(column) for column in w]
    group = Group(numbers, torch.stack([code for code, _ in found]), torch.stack([value for _, value in found]))
    assert torch.allclose(coder.values(group.codes, numbers), group.values, atol=1e-5)
    rest = metric @ (w - group.values)

    def lost() -> torch.Tensor:
        missed = w - group.values
        return (metric @ missed * missed).sum(0)

    before = lost()
    for _ in range(3):
        _descend(group, coder, metric, rest)
        after = lost()
        assert (after <= before * 1.0001 + 1e-4).all()
        _refit(group, coder, metric, rest)
        before = lost()
        assert (before <= after * 1.0001 + 1e-4).all()
        assert torch.allclose(rest, metric @ (w - group.values), atol=2e-2)
    assert torch.equal(coder.snap(group.numbers), group.numbers)


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_the_nearest_sum_of_planes(planes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(planes, 11, generator=generator)
    coder = PlaneCoder(PlaneSpec((1,), 4, "none", "fp16"), ())
    w = 2 * torch.randn(11, generator=generator)
    code, value = coder.nearest(numbers)(w)
    signs = torch.tensor([[(c >> p & 1) - 0.5 for p in range(planes)] for c in range(2**planes)])
    assert torch.allclose((value - w).abs(), (signs @ numbers - w).abs().amin(0), atol=1e-6)
    assert torch.allclose(coder.values(code[None], numbers)[0], value, atol=1e-6)


def test_least_squares_finds_the_scales_of_planted_planes() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, codes = torch.tensor([[3.0], [1.0]]), torch.randint(0, 4, (32, 1), generator=generator).float()
    coder = PlaneCoder(PlaneSpec((1,), 32, "none", "fp16"), ())
    root = torch.randn(32, 32, generator=generator)
    target = root.T @ coder.values(codes, truth)
    assert torch.allclose(coder.solve(codes, torch.ones(2, 1), root, target), truth, rtol=1e-3)
    spec = PlaneSpec((2,), 32, "float", "fp16")
    affine = AffineCoder(spec, Units.of(truth, truth, spec), minmax)
    target = root.T @ (codes * 0.5 - 0.7)
    assert torch.allclose(affine.solve(codes, truth, root, target), torch.tensor([[0.5], [-0.7]]), rtol=1e-3)


def test_groups_meet_the_errors_of_earlier_ones(layer_of: Any) -> None:
    """Rows do not depend on each other, nor on how many there are."""
    layer = layer_of(64, 30, 200, [3])
    upper, _ = sweep_factor(layer.gram)
    spec = PlaneSpec((1,), 16, "none", "fp16")
    coders = [PlaneCoder(spec, (Units.of(torch.empty(0, 1), torch.empty(0, 1), spec),) * 2)] * 4
    whole = code_rows(layer.weight.T.contiguous(), coders, layer.gram, upper, Schedule())
    half = code_rows(layer.weight[:15].T.contiguous(), coders, layer.gram, upper, Schedule())
    same = [torch.isclose(a.values[:, :15], b.values, atol=1e-4) for a, b in zip(whole, half, strict=True)]
    assert torch.stack(same).float().mean() > 0.95


def test_sums_of_other_kinds_are_refused() -> None:
    two = SumSpec((Term.whole(PlaneSpec((2, 2), 8, "none")),))
    with pytest.raises(UsageError, match="no sum of free planes"):
        fit_free(torch.ones(2, 16), two, torch.eye(16), torch.eye(16), NONE)
