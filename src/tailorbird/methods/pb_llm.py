"""PB-LLM: a share of salient weights keeps 8 bits, the rest is binary (Shang et al., arXiv 2310.00034).

The paper picks single weights and counts 8 bits for them and 1 for the others, 1.7 bits at a share of a tenth; which
weights are salient is not in that figure, and a mask of them costs another bit. Here whole columns are picked by the
same salience, w^2 / [H^-1]_jj^2 summed over the rows, and stored together through the column order. Binary groups have
the scale that is optimal for signs, the mean magnitude. Embedding and head, which the paper leaves alone, get the bits
the budget leaves, by the same sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import sweep_factor
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method

SALIENT_BITS = 8


@dataclass(frozen=True, kw_only=True)
class PBLLM(Method):
    """Partially binarized weights.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        salient: share of the columns that keeps 8 bits, in whole groups, one at least where a row has two.
    """

    name: ClassVar[str] = "pb-llm"
    title: ClassVar[str] = "PB-LLM: partially binarized large language models"
    paper: ClassVar[str] = "arXiv 2310.00034"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    own_format: ClassVar[bool] = True

    damp: float = 0.01
    salient: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        if not 0 <= self.salient < 1:
            raise UsageError(f"salient={self.salient} is not a share below 1", hint="0.1 is usual")

    def spec(self, part: Part, bits: int) -> PlaneSpec:
        """Groups of 8 bits, then binary ones; embedding and head as the budget has it."""
        if part.role in ("embedding", "head"):
            return self.planes(part, bits)
        base = self.planes(part, 1)
        groups = len(base.bits)
        wide = min(max(round(self.salient * groups), int(self.salient > 0)), groups - 1)
        return replace(base, bits=(SALIENT_BITS,) * wide + (1,) * (groups - wide), column_order=wide > 0)

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Gather the salient columns, then sweep."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        if not spec.column_order:
            return sweep(weight, spec, minmax, upper)
        wide = spec.group_size * sum(bits == max(spec.bits) for bits in spec.bits)
        order = gathered(salience(weight, upper), wide)
        factor, _ = sweep_factor(measured(stats.gram)[order][:, order], self.damp)
        fitted = sweep(weight, spec, minmax, factor, order=order)
        share = wide / weight.shape[1]
        return replace(fitted, claimed_bits=SALIENT_BITS * share + (1 - share))


def salience(weight: Tensor, upper: Tensor) -> Tensor:
    """Salience of every column, sum over rows of w^2 / [H^-1]_jj^2, float32 (cols,)."""
    return weight.square().sum(0) / upper.square().sum(0).square()


def gathered(scores: Tensor, count: int) -> Tensor:
    """A column order, int64 (cols,): the `count` highest scores first; both parts in their own order."""
    first = torch.zeros(len(scores), dtype=torch.bool)
    first[scores.argsort(descending=True, stable=True)[:count]] = True
    return torch.cat([first.nonzero()[:, 0], (~first).nonzero()[:, 0]])
