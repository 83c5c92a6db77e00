"""Round to nearest: the baseline every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method


@dataclass(frozen=True, kw_only=True)
class RTN(Method):
    """Every weight to the nearest code of its group's min-max range; no calibration data."""

    name: ClassVar[str] = "rtn"
    title: ClassVar[str] = "Round to nearest"
    paper: ClassVar[str] = "baseline"

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Round."""
        return sweep(weight, spec, minmax)
