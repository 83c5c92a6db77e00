"""SliM-LLM: salience-driven mixed precision inside a weight (Huang et al., arXiv 2405.14917), Algorithm A.

- score: salience of a group, the mean of w^2 / d
- allocate: the i least salient groups get one bit less, the i most salient one more; i is scanned for the least
  divergence of outputs
- fit: the GPTQ sweep with bits by group and a range search for every group

The released code never considers uniform bits (`released`), and ranks twice with two dampings; here salience is
computed once, with the sweep's own damping, and layers of fewer than four groups keep uniform bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.allocate.salience import Diagonal, salient_bits
from tailorbird.errors import UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.search import RangeSearch, ratios
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method


@dataclass(frozen=True, kw_only=True)
class SlimLLM(Method):
    """Mixed bits by group at the same average, then GPTQ with searched ranges.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        mix: choose bits by group; without, every group has the same.
        search: candidates on either side of the min-max range (the paper: 50, which costs five times as much); 0
            leaves ranges as they are.
        reach: largest relative change of the range that is tried (the paper's lambda, there 0.1: too little for two
            bits, where the best range is well inside min-max).
        diagonal: what salience divides by: ``cholesky`` the sweep's own loss, ``inverse`` the paper's.
        released: as the released code, never uniform bits.
    """

    name: ClassVar[str] = "slim-llm"
    title: ClassVar[str] = "SliM-LLM: salience-driven mixed-precision quantization for large language models"
    paper: ClassVar[str] = "arXiv 2405.14917"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "inputs"})

    damp: float = 0.01
    mix: bool = True
    search: int = 10
    reach: float = 0.5
    diagonal: Diagonal = "cholesky"
    released: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        if self.diagonal not in ("cholesky", "inverse") or self.search < 0 or not 0 <= self.reach < 1:
            raise UsageError(
                f"diagonal={self.diagonal!r}, search={self.search}, reach={self.reach}",
                hint="diagonal is cholesky or inverse, search 0 or more, reach from 0 to below 1",
            )

    def decide(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> PlaneSpec:
        """Bits by group with the average of `spec`: more for salient groups, then as many changed pairs as pay."""
        if not self.mix:
            return spec
        inputs = measured(stats.inputs)
        return salient_bits(weight, inputs, stats.factor(self.damp)[0], spec, self.diagonal, self.released)

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """The sweep with these bits."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        return sweep(weight, spec, RangeSearch(self.ratios()) if self.search else minmax, upper)

    def ratios(self) -> list[float]:
        """Multiples of the range that are tried."""
        return ratios(self.search, self.reach)
