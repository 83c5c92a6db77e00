"""Trellis: rows as paths through a bit-shift trellis (`formats.trellis`), searched for with error feedback.

Where the format can't hold what is asked for (more than 4 bits, groups that are no multiples of 16 columns), weights
are affine planes, swept and refined as by `planes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from tailorbird.allocate.groups import dealt
from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit.descent import Schedule
from tailorbird.fit.hessian import damped
from tailorbird.fit.planes import fit_affine
from tailorbird.fit.search import RangeSearch, ratios
from tailorbird.fit.trellis import fit_trellis
from tailorbird.formats import Fit, PlaneSpec, Spec, TrellisSpec
from tailorbird.kernels.trellis import MAX_BEAM, MAX_HALVES, MIN_HALVES, UNIT
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method, group_of

SAMPLE_ROWS = 128
# What half a bit more divides the squared error by.
GAIN = 1.95


@dataclass(frozen=True, kw_only=True)
class Trellis(Method):
    """A beam search along the columns of every row, then scales by least squares.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        beam: paths that are kept at every column; time grows with it.
        mix: try more bits, in halves, for the groups that lose most.
    """

    name: ClassVar[str] = "trellis"
    title: ClassVar[str] = "Paths through a bit-shift trellis, searched for with error feedback"
    paper: ClassVar[str] = "trellis: arXiv 2406.11235"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    kinds: ClassVar[frozenset[str]] = frozenset({PlaneSpec.kind, TrellisSpec.kind})
    # Blocks of three bits lose little here: the demo model at 2.5 bits, KL on held-back text, 0.35; with 1.25, 0.46.
    least_ends: ClassVar[float] = 2.0

    damp: float = 0.01
    beam: int = 32
    mix: bool = True

    def __post_init__(self) -> None:
        """Refuse what the search can't hold."""
        super().__post_init__()
        if not 1 <= self.beam <= MAX_BEAM:
            raise UsageError(f"beam={self.beam}", hint=f"1 to {MAX_BEAM}")

    def spec(self, part: Part, bits: int) -> Spec:
        """A trellis where one can be."""
        size = group_of(part.shape[1], self.group_size)
        if 2 * bits > MAX_HALVES or size % UNIT:
            return self.planes(part, bits)
        return TrellisSpec.uniform(2 * bits, part.shape[1], size, self.scale)

    def decide(self, weight: Tensor, stats: Stats, spec: Any) -> Spec:
        """The same bits everywhere, or more for the groups that lose most, by what loses less on a sample of rows."""
        kept: Spec = spec
        if not isinstance(spec, TrellisSpec) or not self.mix or spec.mixed:
            return kept
        upper, _ = stats.factor(self.damp)
        columns = weight.square().sum(0) / upper.diagonal().square()
        losses = [float(loss) for loss in columns.view(-1, spec.group_size).sum(1)]
        mixed = replace(spec, halves=dealt(losses, sum(spec.halves), GAIN, MIN_HALVES, MAX_HALVES))
        if mixed == spec:
            return kept
        rows = weight[:: max(1, weight.shape[0] // SAMPLE_ROWS)][:SAMPLE_ROWS]
        return min((spec, mixed), key=lambda other: self._loss(rows, stats, other))

    def fit(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """Search."""
        upper, dead = stats.factor(self.damp)
        gram, _ = damped(measured(stats.gram), self.damp)
        weight[:, dead] = 0
        if isinstance(spec, TrellisSpec):
            return fit_trellis(weight, spec, gram, upper, self.beam)
        return fit_affine(weight, spec, RangeSearch(ratios(10, 0.5)), gram, upper, Schedule())

    def _loss(self, rows: Tensor, stats: Stats, spec: Spec) -> float:
        lost = rows - self.fit(rows.clone(), stats, spec).pack().dequantize()
        return float((lost @ measured(stats.gram) * lost).sum())
