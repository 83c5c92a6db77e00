"""QuaRot: rotate the model, then quantise it (Ashkboos et al., arXiv 2404.00456); its part for weights.

- transform: random Hadamard rotations of the residual stream and of every value head, folded into the weights, so that
  large values spread over all channels
- fit: the GPTQ sweep, ranges of groups searched

The rotation is an option of every method: ``rtn`` with ``rotate=hadamard`` is QuaRot's variant without calibration
data. Activations, keys and values stay as they are here, and with them the transforms the paper runs online.
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
class QuaRot(Method):
    """A random rotation, then the GPTQ sweep.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        clip: search the range of every group.
    """

    name: ClassVar[str] = "quarot"
    title: ClassVar[str] = "QuaRot: outlier-free 4-bit inference in rotated LLMs"
    paper: ClassVar[str] = "arXiv 2404.00456"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})

    rotate: Rotate = "hadamard"
    damp: float = 0.01
    clip: bool = True

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Sweep."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        return sweep(weight, spec, RangeSearch(CLIPS) if self.clip else minmax, upper)
