"""HQQ: half-quadratic quantization, without data (Badri and Shaji, mobiusml.github.io/hqq_blog, 2023).

- fit: the range of the group gives its scale; the offset, a number of its own, is moved until the p-norm of the error,
  p < 1, no longer falls. Large errors count little, so that outliers don't pull the other weights along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.half_quadratic import HalfQuadratic
from tailorbird.fit.sweep import Fitted
from tailorbird.formats import PlaneSpec
from tailorbird.formats.spec import Offset
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method


@dataclass(frozen=True, kw_only=True)
class HQQ(Method):
    """Ranges by group with float offsets solved for; no calibration data.

    With `symmetric` there are no offsets to solve for, and weights are rounded.

    Attributes:
        norm: exponent p of the error.
        beta: weight of the quadratic term at the start.
        growth: what beta is multiplied by in each round.
        rounds: rounds at most.
    """

    name: ClassVar[str] = "hqq"
    title: ClassVar[str] = "HQQ: half-quadratic quantization of large machine learning models"
    paper: ClassVar[str] = "mobiusml.github.io/hqq_blog"

    norm: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    rounds: int = 20

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        if not 0 < self.norm <= 1 or self.beta <= 0 or self.growth < 1 or self.rounds < 0:
            raise UsageError(
                f"norm={self.norm}, beta={self.beta}, growth={self.growth}, rounds={self.rounds}",
                hint="norm above 0 and up to 1, beta above 0, growth 1 or more, rounds 0 or more",
            )

    @property
    def offset(self) -> Offset:
        """A number of its own for every group."""
        return "none" if self.symmetric else "float"

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Solve for the offsets, then round."""
        return HalfQuadratic(self.norm, self.beta, self.growth, self.rounds)(weight, spec)
