"""SpinQuant: learn the rotation, then quantise (Liu et al., arXiv 2405.16406); its part for weights.

- transform: rotations of the residual stream (R1) and of every value head (R2), folded into the weights, learned by
  Cayley SGD from random Hadamard ones. The paper's loss is that of the language model with rounded activations; where
  only weights are rounded, it is the error that rounding them is expected to cause (`transform.learn`).
- fit: the GPTQ sweep, ranges of groups searched

The rotation is an option of every method: ``rotate=learned``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.fit.groups import minmax
from tailorbird.fit.search import CLIPS, RangeSearch
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Need, Stats
from tailorbird.method import Method, Rotate


@dataclass(frozen=True, kw_only=True)
class SpinQuant(Method):
    """A learned rotation, then the GPTQ sweep.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        clip: search the range of every group.
    """

    name: ClassVar[str] = "spinquant"
    title: ClassVar[str] = "SpinQuant: LLM quantization with learned rotations"
    paper: ClassVar[str] = "arXiv 2405.16406"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    rotate: Rotate = "learned"
    damp: float = 0.01
    clip: bool = True

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Sweep."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        return sweep(weight, spec, RangeSearch(CLIPS) if self.clip else minmax, upper)
