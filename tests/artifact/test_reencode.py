"""Other formats for packed weights: exact where the new one is only wider, rounded elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tailorbird.allocate.rules import Rules
from tailorbird.anatomy import Part
from tailorbird.artifact import Artifact
from tailorbird.artifact.reencode import Reencoded, converted, nearest
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.plan import Plan


def packed(spec: PlaneSpec, rows: int = 24) -> BitPlanes:
    weight = torch.randn(rows, spec.cols, generator=torch.Generator().manual_seed(2))
    return sweep(weight, spec, minmax).pack()


@pytest.mark.parametrize("scale", ["u8", "fp16"])
@pytest.mark.parametrize("offset", ["none", "integer"])
def test_only_wider_changes_nothing(scale: str, offset: str) -> None:
    old = PlaneSpec((2, 4, 3, 2), 16, offset, scale)  # type: ignore[arg-type]
    planes = packed(old)
    for wide in (offset, "integer"):
        for bits in (4, 5, 7):
            made = converted(planes, PlaneSpec.uniform(bits, 64, 16, wide, scale))  # type: ignore[arg-type]
            assert made.spec.bits == (bits,) * 4
            if bits < 6:
                assert torch.equal(made.dequantize(), planes.dequantize())
            # Products of wider codes and 8-bit scales don't fit a float32 any more: the last bit may differ.
            assert torch.allclose(made.dequantize(), planes.dequantize(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "old, new",
    [
        (PlaneSpec.uniform(4, 64, 16), PlaneSpec.uniform(4, 64, 32)),
        (PlaneSpec.uniform(4, 64, 16, "float"), PlaneSpec.uniform(6, 64, 16)),
        (PlaneSpec.uniform(4, 64, 16), PlaneSpec.uniform(4, 64, 16, "none")),
        (PlaneSpec((1, 4, 4, 4), 16), PlaneSpec.uniform(4, 64, 16)),
        (PlaneSpec.uniform(4, 64, 16), PlaneSpec.uniform(3, 64, 16)),
    ],
)
def test_what_else_is_rounded(old: PlaneSpec, new: PlaneSpec) -> None:
    planes = packed(old)
    made, weight = converted(planes, new), planes.dequantize()
    assert made.spec == new
    steps = new.bits[0] - 1
    assert 0 < float((made.dequantize() - weight).norm() / weight.norm()) < 2.0**-steps
    assert converted(planes, old) is planes


def test_some_rows_are_those_of_the_whole(base: Path) -> None:
    artifact = Artifact.open(base)
    rules = Rules(lambda part, spec: replace(spec, bits=(5,) * len(spec.bits), offset="integer", column_order=False))
    source = Reencoded.under(artifact, rules)
    assert source is not artifact and set(source.tensors) == set(artifact.tensors)
    for part in artifact.plan.parts:
        whole = source.planes(part.name).dequantize()
        assert source.planes(part.name).spec.bits[0] == 5
        assert torch.equal(source.read_rows(part.tensor, 3, 9), whole[3:9])
        assert torch.equal(source.read(part.tensor), whole)
    kept = next(name for name in artifact.tensors if name in artifact.stored)
    assert torch.equal(source.read(kept), artifact.read(kept))


def test_an_allowed_artifact_stays_itself(base: Path) -> None:
    artifact = Artifact.open(base)
    assert Reencoded.under(artifact, Rules()) is artifact


def test_tied_parts_take_the_widest() -> None:
    parts = [Part(name, (8, 64), "attention", 0) for name in "qkv"]
    specs = {"q": PlaneSpec.uniform(3, 64, 16, "none"), "k": PlaneSpec.uniform(4, 64, 16), "v": specs_of(3)}
    plan = Plan("rtn", {}, parts, specs)
    near = nearest(plan, Rules(ties=[("q", "k", "v")]))
    assert set(near.values()) == {PlaneSpec.uniform(4, 64, 16)}
    near = nearest(plan, Rules(ties=[("q", "v")]))
    assert near["q"] == near["v"] == PlaneSpec.uniform(3, 64, 16) and near["k"] == specs["k"]


def specs_of(bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, 64, 16)


def test_labels() -> None:
    assert specs_of(3).label == "3 bits, groups of 16, zero points, u8 scales"
    mixed = PlaneSpec((2, 4), 32, "none", "fp16", True)
    assert mixed.label == "2 to 4 bits mixed, groups of 32, symmetric, fp16 scales, column order"
    assert "rows" in PlaneSpec.uniform(2, 64, 64, "float").label
