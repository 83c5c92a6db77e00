"""BiLLM: binary weights, salient columns with a residual, the others split by magnitude (Huang et al., arXiv
2402.04291).

- score: salience of a weight, w^2 / d_j^2, with d the diagonal of H^-1 (paper) or of its Cholesky factor (code)
- fit: columns are ranked by salience and as many taken as salient as lose least; blocks of a group in turn: salient
  ones by two binary weights, the second for what the first leaves; others by one, with a magnitude for weights below a
  threshold and another one above; the error of a block is made up for by later blocks

The paper counts 1 bit, one more for salient columns, and no scales or masks: about 1.08. A residual and a mask of
magnitudes both are a second plane, so everything here takes two bits and the scales of two planes.

Salient columns are gathered over the whole row, in whole groups, and met first; the paper picks up to 30 in each block
of 128, which then has scales for both kinds. Embedding and head, which the paper leaves alone, get the bits the budget
leaves, by the GPTQ sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit import binary
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import sweep_factor
from tailorbird.fit.planes import FittedSum
from tailorbird.fit.sums import PlaneBlock, SumSweep
from tailorbird.fit.sweep import sweep
from tailorbird.formats import Fit, PlaneSpec, Spec, SumSpec, Term
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method, group_of

Domain = Literal["weight", "salience"]
BLOCK = 128  # columns the paper's limit is meant for


@dataclass(frozen=True, kw_only=True)
class BiLLM(Method):
    """Binary weights in the paper's form; `search=salience`, `shift`, `limit=50` and `trial=2` make the code's.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        search: what both searches look at: weights, or their salience.
        shift: binarize around means, which are stored; it takes a third plane.
        limit: most salient columns of 128.
        trial: order of the binarization of other columns while salient ones are chosen.
        group_size: columns of a block and of a scale.
    """

    name: ClassVar[str] = "billm"
    title: ClassVar[str] = "BiLLM: pushing the limit of post-training quantization for LLMs"
    paper: ClassVar[str] = "arXiv 2402.04291"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    kinds: ClassVar[frozenset[str]] = frozenset({PlaneSpec.kind, SumSpec.kind})
    own_format: ClassVar[bool] = True

    group_size: int = 128
    damp: float = 0.01
    search: Domain = "weight"
    shift: bool = False
    limit: int = 30
    trial: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        if self.search not in ("weight", "salience") or not 0 <= self.limit <= BLOCK or self.trial not in (1, 2):
            raise UsageError(
                f"search={self.search!r}, limit={self.limit}, trial={self.trial}",
                hint="search is weight or salience, limit 0 to 128, trial 1 or 2",
            )

    def spec(self, part: Part, bits: int) -> Spec:
        """Two planes, with means three; embedding and head as the budget has it."""
        if part.role in ("embedding", "head"):
            return self.planes(part, bits)
        size = group_of(part.shape[1], self.group_size)
        plane = PlaneSpec((1,) * (part.shape[1] // size), size, "none", self.scale)
        first = PlaneSpec(plane.bits, size, "float", self.scale) if self.shift else plane
        terms = (first, plane, plane) if self.shift else (first, plane)
        return SumSpec(tuple(Term.whole(term) for term in terms), column_order=True)

    def fit(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """Rank, gather, then binarize block by block."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        if isinstance(spec, PlaneSpec):
            return sweep(weight, spec, minmax, upper)
        divisor = upper.square().sum(0) if self.search == "weight" else upper.diagonal()
        salience = (weight / divisor).square()
        ranks = salience.sum(0).argsort(descending=True, stable=True)
        wide = spec.group_size * self._salient(weight, salience, ranks, spec)
        order = torch.cat([ranks[:wide].sort().values, ranks[wide:].sort().values])
        factor, _ = sweep_factor(measured(stats.gram)[order][:, order], self.damp)
        share = wide / weight.shape[1]
        blocks = SumSweep(weight[:, order].T.contiguous(), factor, spec)
        terms = blocks.run(lambda g, w: self._block(w, g * spec.group_size < wide, factor, g, spec))
        return FittedSum(spec, terms, order.to(torch.int32), claimed_bits=1 + share)

    def _salient(self, weight: Tensor, salience: Tensor, ranks: Tensor, spec: SumSpec) -> int:
        """How many groups of salient columns lose least."""
        domain = (weight if self.search == "weight" else salience).T
        most = min(round(self.limit * spec.cols / (BLOCK * spec.group_size)), spec.groups - 1)
        errors = []
        for count in range(most + 1):
            wide = count * spec.group_size
            parts = self._parts(domain, ranks[:wide].sort().values, 2, spec.group_size)
            rest = self._parts(domain, ranks[wide:].sort().values, self.trial, spec.group_size)
            errors.append(sum(float(error) for error in (*parts, *rest)))
        return errors.index(min(errors))

    def _parts(self, domain: Tensor, columns: Tensor, order: int, size: int) -> Iterator[Tensor]:
        """Squared error of the binarization of some columns, group by group."""
        for start in range(0, len(columns), size):
            x = domain[columns[start : start + size]]
            yield (x - binary.total(binary.residual(x, order, shift=self.shift))).square().sum()

    def _block(self, w: Tensor, salient: bool, factor: Tensor, g: int, spec: SumSpec) -> PlaneBlock:
        """Planes of one block (group, rows)."""
        if salient:
            return PlaneBlock.residual(binary.residual(w, 2, shift=self.shift))
        own = factor.diagonal()[g * spec.group_size : (g + 1) * spec.group_size, None]
        domain = w if self.search == "weight" else (w / own).square()
        threshold = binary.best_threshold(domain, binary.thresholds(domain, self.search == "salience"), self.shift)
        return PlaneBlock.split(*binary.split(w, threshold, domain, self.shift))
