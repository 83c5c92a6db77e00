"""Planes fitted by least squares and coordinate descent, inside the sweep and after it (`fit.descent`).

What a weight is stored as is tried on a sample of its rows, at no more bytes than planned: affine codes of the same
bits everywhere, or more for the groups that lose most; and at two bits groups of twice the columns, for whose two
numbers of 8 bits there is room then: an offset that is no zero point, or free planes, each with a scale of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from tailorbird.allocate.groups import dealt
from tailorbird.errors import UsageError
from tailorbird.fit.descent import Schedule
from tailorbird.fit.hessian import damped
from tailorbird.fit.planes import fit_affine, fit_free
from tailorbird.fit.search import RangeSearch
from tailorbird.formats import Fit, PlaneSpec, Spec, SumSpec
from tailorbird.formats.spec import MAX_BITS
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method

# Multiples of the min-max range to begin with: at two bits the best lies well inside it.
RATIOS = [k / 10 for k in range(4, 13)]
SAMPLE_ROWS = 128
# What a bit more divides the squared error by, where codes are few.
GAIN = 3.3
# Where a group of twice the columns with two numbers of 8 bits is as good as one with a scale and a zero point.
WIDE_BITS = 2


@dataclass(frozen=True, kw_only=True)
class Planes(Method):
    """Free planes and affine ones, with codes that are looked at more than once.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        free: try free planes at two bits.
        mix: try more bits for the groups that lose most.
        rounds: turns of codes and scales when the sweep meets a group.
        descents: visits of every code in such a turn.
        polish: rounds of descent over the whole weight after the sweep.
    """

    name: ClassVar[str] = "planes"
    title: ClassVar[str] = "Free and affine planes by least squares and coordinate descent"
    paper: ClassVar[str] = "descent: arXiv 2309.01885, 2406.17542"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    kinds: ClassVar[frozenset[str]] = frozenset({PlaneSpec.kind, SumSpec.kind})

    damp: float = 0.01
    free: bool = True
    mix: bool = True
    rounds: int = 1
    descents: int = 0
    polish: int = 2

    def __post_init__(self) -> None:
        """Refuse what is no number of times."""
        super().__post_init__()
        if min(self.rounds, self.descents, self.polish) < 0:
            raise UsageError(
                f"rounds={self.rounds}, descents={self.descents}, polish={self.polish}", hint="numbers from 0 on"
            )

    def decide(self, weight: Tensor, stats: Stats, spec: Any) -> Spec:
        """Of all formats of at most as many bytes, the one that loses least on a sample of rows."""
        if not isinstance(spec, PlaneSpec) or spec.column_order:
            kept: Spec = spec
            return kept
        rows = weight[:: max(1, weight.shape[0] // SAMPLE_ROWS)][:SAMPLE_ROWS]
        room = spec.plan(weight.shape[0]).nbytes
        found: list[Spec] = [spec]
        for other in self._others(weight, stats, spec):
            if other not in found and other.plan(len(weight)).nbytes <= room:
                found.append(other)
        if len(found) == 1:
            return spec
        return min(found, key=lambda other: self._loss(rows, stats, other))

    def fit(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """Sweep, then descend."""
        upper, dead = stats.factor(self.damp)
        gram, _ = damped(measured(stats.gram), self.damp)
        weight[:, dead] = 0
        how = Schedule(self.rounds, self.descents, self.polish)
        if isinstance(spec, SumSpec):
            return fit_free(weight, spec, gram, upper, how)
        return fit_affine(weight, spec, RangeSearch(RATIOS), gram, upper, how)

    def _others(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Iterator[Spec]:
        if self.mix and not spec.mixed:
            yield replace(spec, bits=_dealt(self._losses(weight, stats, spec.group_size), sum(spec.bits)))
        if set(spec.bits) != {WIDE_BITS} or len(spec.bits) % 2:
            return
        size, half = 2 * spec.group_size, len(spec.bits) // 2
        counts = [(WIDE_BITS,) * half]
        counts += [_dealt(self._losses(weight, stats, size), WIDE_BITS * half)] if self.mix else []
        for bits in counts:
            if spec.offset == "integer":
                yield replace(spec, bits=bits, group_size=size, offset="float")
            if self.free:
                yield SumSpec.free(bits, size, spec.scale)

    def _losses(self, weight: Tensor, stats: Stats, size: int) -> list[float]:
        """What the sweep would lose in each group without any bit, up to a factor."""
        upper, _ = stats.factor(self.damp)
        columns = weight.square().sum(0) / upper.diagonal().square()
        return [float(loss) for loss in columns.view(-1, size).sum(1)]

    def _loss(self, rows: Tensor, stats: Stats, spec: Spec) -> float:
        lost = rows - self.fit(rows.clone(), stats, spec).pack().dequantize()
        return float((lost @ measured(stats.gram) * lost).sum())


def _dealt(losses: Sequence[float], total: int) -> tuple[int, ...]:
    return dealt(losses, total, GAIN, 1, MAX_BITS)
