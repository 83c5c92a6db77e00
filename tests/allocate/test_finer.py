"""Above eight bits: finer scales, each step closer than the one before; no other plan where eight bits don't fit."""

from __future__ import annotations

import pytest
import torch

from tailorbird.allocate.finer import LEVELS, finer, left, topped
from tailorbird.anatomy import Part
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import LevelSpec, PlaneSpec, Spec, affine
from tailorbird.kernels.matrix import PackedMatrix

PARTS = [Part("head", (64, 128), "head", None), Part("up", (32, 128), "mlp", 0)]


def spec_of(part: Part, bits: int) -> Spec:
    return finer(PlaneSpec.uniform(min(bits, 8), part.shape[1], 64), bits - 8)


def cost_of(part: Part, spec: Spec) -> int:
    return spec.plan(part.shape[0]).nbytes


def test_every_step_loses_less() -> None:
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(0))
    spec = PlaneSpec.uniform(8, 256, 64)
    forms = [affine(finer(spec, steps)) for steps in range(LEVELS - 7)]
    lost = [float((sweep(weight.clone(), form, minmax).pack().dequantize() - weight).norm()) for form in forms]
    sizes = [form.plan(48).nbytes for form in forms]
    assert [form.group_size for form in forms] == [64, 32, 16, 16] and forms[-1].scale == "fp16"
    assert lost == sorted(lost, reverse=True) and len(set(lost)) == len(lost)
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_kernels_multiply_by_it(steps: int) -> None:
    weight = torch.randn(40, 192, generator=torch.Generator().manual_seed(1))
    planes = sweep(weight, affine(finer(PlaneSpec.uniform(8, 192, 64), steps)), minmax).pack()
    matrix = PackedMatrix.from_arrays(planes.rows, planes.spec.bits, planes.spec.group_size, planes.arrays)
    x = torch.randn(3, 192, generator=torch.Generator().manual_seed(2))
    wanted = x @ planes.dequantize().T
    assert torch.allclose(matrix.matmul(x, "fp32"), wanted, atol=1e-4)


def test_what_is_no_affine_planes_or_finer_already_stays() -> None:
    levels = LevelSpec(4, 2, 64)
    small = PlaneSpec.uniform(8, 128, 16, scale="fp16")
    assert all(finer(small, steps) == small for steps in range(4))
    assert finer(levels, 2) == levels
    odd = PlaneSpec.uniform(8, 40, 40)
    assert finer(odd, 1) == odd


def test_only_what_eight_bits_leave_is_spent() -> None:
    full = sum(cost_of(part, spec_of(part, 8)) for part in PARTS)
    most = sum(cost_of(part, spec_of(part, LEVELS)) for part in PARTS)
    chosen = {part.name: spec_of(part, 5) for part in PARTS}
    assert topped(chosen, PARTS, spec_of, cost_of, full - 1) is chosen
    sizes = []
    for limit in range(full, most + 1, 16):
        found = topped(chosen, PARTS, spec_of, cost_of, limit)
        sizes.append(sum(cost_of(part, found[part.name]) for part in PARTS))
        assert sizes[-1] <= limit
    assert sizes[0] == full and topped(chosen, PARTS, spec_of, cost_of, most) == {
        part.name: spec_of(part, LEVELS) for part in PARTS
    }
    # A part of the block comes before the head.
    first = topped(chosen, PARTS, spec_of, cost_of, full + cost_of(PARTS[1], spec_of(PARTS[1], 9)))
    assert first["up"] != spec_of(PARTS[1], 8)


def test_what_a_step_leaves_is_what_was_foretold() -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(3))
    coarse = PlaneSpec.uniform(8, 512, 64)
    lost = [
        float((sweep(weight.clone(), affine(form), minmax).pack().dequantize() - weight).square().mean())
        for form in (finer(coarse, steps) for steps in range(LEVELS - 7))
    ]
    for steps, error in enumerate(lost[:-1]):
        assert left(finer(coarse, steps), coarse) == pytest.approx(error / lost[0], rel=0.06)
    # How much half scales bring depends on how much the scales of a row differ: here, little.
    assert left(finer(coarse, 3), coarse) / left(finer(coarse, 2), coarse) < lost[3] / lost[2] < 1
    assert left(LevelSpec(4, 2, 64), coarse) == left(coarse, LevelSpec(4, 2, 64)) == 1
    assert left(coarse, finer(coarse, 1)) == 1  # a coarser one is not foretold
