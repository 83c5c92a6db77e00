"""GPTQ: quantise column by column, let the remaining columns make up for the error (Frantar et al., arXiv
2210.17323)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import sweep_factor
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method


@dataclass(frozen=True, kw_only=True)
class GPTQ(Method):
    """The block sweep with its published defaults.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        act_order: visit columns by falling Hessian diagonal. Without static groups the permutation is stored and
            counted.
        static_groups: fit all ranges on the original weight before the sweep.
    """

    name: ClassVar[str] = "gptq"
    title: ClassVar[str] = "GPTQ: accurate post-training quantization for generative pre-trained transformers"
    paper: ClassVar[str] = "arXiv 2210.17323"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    damp: float = 0.01
    act_order: bool = False
    static_groups: bool = False

    def spec(self, part: Part, bits: int) -> PlaneSpec:
        """With act-order and moving groups the columns are stored in sweep order."""
        return replace(self.planes(part, bits), column_order=self.act_order and not self.static_groups)

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Sweep."""
        if not self.act_order:
            upper, dead = stats.factor(self.damp)
            weight[:, dead] = 0
            return sweep(weight, spec, minmax, upper, self.static_groups)
        gram = measured(stats.gram)
        order = gram.diagonal().argsort(descending=True, stable=True)
        upper, dead = sweep_factor(gram[order][:, order], self.damp)
        weight[:, order[dead]] = 0
        return sweep(weight, spec, minmax, upper, self.static_groups, order)
