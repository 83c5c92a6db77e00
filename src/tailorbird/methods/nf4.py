"""NF4: NormalFloat codes under the largest magnitude of their group (Dettmers et al., QLoRA, arXiv 2305.14314).

The published type has 4 bits, groups of 64 and 8-bit scales under float32 ones; here scales are 8 bits under a half a
row. Where a budget asks for other bits than 4, weights are rounded to evenly spaced codes as by `rtn`: tables of the
same construction for fewer or more bits lost more than those on planted layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.fit.groups import minmax
from tailorbird.fit.levels import fit_levels
from tailorbird.fit.sweep import sweep
from tailorbird.formats import Fit, LevelSpec, PlaneSpec, Spec
from tailorbird.formats.levels import normal_levels
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method, group_of

BITS = 4


@dataclass(frozen=True, kw_only=True)
class NF4(Method):
    """Every weight to the nearest of 16 levels; no calibration data."""

    name: ClassVar[str] = "nf4"
    title: ClassVar[str] = "QLoRA: NormalFloat, the quantiles of a normal distribution"
    paper: ClassVar[str] = "arXiv 2305.14314"
    kinds: ClassVar[frozenset[str]] = frozenset({PlaneSpec.kind, LevelSpec.kind})

    def spec(self, part: Part, bits: int) -> Spec:
        """NormalFloat for four bits."""
        if bits != BITS:
            return self.planes(part, bits)
        size = group_of(part.shape[1], self.group_size)
        return LevelSpec(bits, part.shape[1] // size, size, "normal", self.scale)

    def fit(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """Round."""
        if isinstance(spec, LevelSpec):
            return fit_levels(weight, spec, normal_levels(spec.bits))
        return sweep(weight, spec, minmax)
