"""SliM-LLM+: bits by group from salience, ranges by learned clipping (Huang et al., arXiv 2405.14917, Algorithm B).

- score, allocate: as SliM-LLM (Algorithm A)
- tune: two logits for every row and group, as OmniQuant; the magnitude of a one-bit group times sigmoid + 0.5
- loss: squared distance of the block's output from the uncompressed model's on its own inputs, and from what the
  uncompressed block makes of the same inputs (`augmented`)

Where this departs from the released code: one-bit groups are symmetric or, with float offsets, keep their mean, which
the code takes off and never adds again, and their sign passes a gradient; 100 steps of one batch of four windows
instead of 50 epochs over 128 sequences of 2,048 tokens; the parameters of the least loss on all calibration data are
kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.allocate.salience import salient_bits
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.tune.learning import Clipping


@dataclass(frozen=True, kw_only=True)
class SlimLLMPlus(Clipping):
    """Mixed bits by group at the same average, then Adam on the logits of both ends of every range."""

    name: ClassVar[str] = "slim-llm-plus"
    title: ClassVar[str] = "SliM-LLM+: salience-driven mixed precision with learned clipping"
    paper: ClassVar[str] = "arXiv 2405.14917"
    needs: ClassVar[frozenset[Need]] = Clipping.needs | {"inputs"}

    augmented: bool = True

    def decide(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> PlaneSpec:
        """Bits by group with the average of `spec`."""
        return salient_bits(weight, measured(stats.inputs), stats.factor(self.damp)[0], spec)
