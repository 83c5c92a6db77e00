"""Codes of more than eight bits: each bit leaves a quarter of the error, and kernels multiply by them as stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.fit.finer import fit_finer
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec, SumSpec, spec_from_json
from tailorbird.kernels.matrix import PackedMatrix


def weights(rows: int = 200, cols: int = 256) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))


def lost(weight: torch.Tensor, spec: SumSpec) -> float:
    return float((fit_finer(weight, spec).pack().dequantize() - weight).square().mean())


@pytest.mark.parametrize("offset", ["integer", "none", "float"])
@pytest.mark.parametrize("scale", ["u8", "fp16"])
def test_each_bit_leaves_a_quarter_of_the_error(offset: Any, scale: Any) -> None:
    weight, base = weights(), PlaneSpec.uniform(8, 256, 64, offset, scale)
    eight = float((sweep(weight.clone(), base, minmax).pack().dequantize() - weight).square().mean())
    left = [lost(weight, SumSpec.finer(base, (more,) * 4)) / eight for more in (1, 2, 3)]
    assert left[0] == pytest.approx(1 / 4, rel=0.1)
    assert left[1] == pytest.approx(1 / 16, rel=0.15)
    # Scales of the second term are rounded too.
    assert 1 / 64 * 0.9 < left[2] < 1 / 64 * 1.5


@pytest.mark.parametrize(("size", "covered"), [(32, 2), (16, 6)])
def test_finer_scales_would_buy_no_more(size: int, covered: int) -> None:
    """Groups of 32 leave about as much as a ninth bit in some groups of 64 at the same bytes, groups of 16 more."""
    weight = weights(1000, 640)
    groups, base = PlaneSpec.uniform(8, 640, size), PlaneSpec.uniform(8, 640, 64)
    more = SumSpec.finer(base, (0,) * (10 - covered) + (1,) * covered)
    assert more.plan(1000).nbytes <= groups.plan(1000).nbytes
    by_groups = float((sweep(weight.clone(), groups, minmax).pack().dequantize() - weight).square().mean())
    assert lost(weight, more) < by_groups * (1.1 if size == 32 else 0.95)


def test_a_range_far_from_zero_is_covered() -> None:
    """Where a format can hold it: half offsets. A step is a 255th of the range, not of the largest weight."""
    weight = 5 + weights() / 4
    base = PlaneSpec.uniform(8, 256, 64, "float", "fp16")
    eight = (sweep(weight.clone(), base, minmax).pack().dequantize() - weight).abs().max()
    nine = (fit_finer(weight, SumSpec.finer(base, (1,) * 4)).pack().dequantize() - weight).abs().max()
    assert nine < eight


def test_no_weight_is_further_off_than_a_step_of_the_second_term() -> None:
    weight = weights()
    fitted = fit_finer(weight, SumSpec.finer(PlaneSpec.uniform(8, 256, 64), (2,) * 4))
    step = fitted.terms[1].grid.values()[0].repeat_interleave(64, 1)
    off = (fitted.pack().dequantize() - weight).abs()
    # Half a step, and what rounding the second term's scale takes from its ends.
    assert (off <= step * 0.75).all() and (off <= step * 0.52).float().mean() > 0.95


def test_groups_without_a_second_term_are_eight_bits() -> None:
    weight, base = weights(), PlaneSpec.uniform(8, 256, 64)
    off = (fit_finer(weight, SumSpec.finer(base, (0, 1, 3, 0))).pack().dequantize() - weight).square()
    error = off.view(-1, 4, 64).mean((0, 2))
    assert error[[1, 2]] / error[0] == pytest.approx([1 / 4, 1 / 64], rel=0.4)
    assert float(error[3] / error[0]) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("more", [(1, 1, 1, 1), (0, 0, 2, 3)])
def test_kernels_multiply_by_it(more: tuple[int, ...]) -> None:
    packed = fit_finer(weights(40), SumSpec.finer(PlaneSpec.uniform(8, 256, 64), more)).pack()
    matrix, weight = packed.lay_out(PackedMatrix), packed.dequantize()
    assert isinstance(matrix, PackedMatrix)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(matrix.matmul(x, "fp32"), x @ weight.T, atol=1e-4)
    assert torch.equal(matrix.gather(torch.arange(40)), weight)


def test_only_such_sums_have_more_than_eight_bits() -> None:
    base = PlaneSpec.uniform(8, 256, 64)
    spec = SumSpec.finer(base, (0, 1, 3, 0))
    read = spec_from_json(spec.to_json(), 256)
    assert isinstance(read, SumSpec) and read == spec and read.more == (0, 1, 3, 0)
    assert not SumSpec.free((2, 2), 128).more
    assert not SumSpec(spec.terms[:1]).more and not SumSpec(spec.terms, column_order=True).more


def test_a_weight_of_nothing_stays_nothing() -> None:
    packed = fit_finer(torch.zeros(3, 128), SumSpec.finer(PlaneSpec.uniform(8, 128, 64), (2, 2))).pack()
    assert not packed.dequantize().any()
