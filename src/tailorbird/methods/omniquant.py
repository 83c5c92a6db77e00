"""OmniQuant: learned weight clipping (Shao et al., arXiv 2308.13137), its weight-only form for models with gated MLPs.

    w_q = (clamp(round(w / s) + z, 0, 2^b - 1) - z) s,   s, z from [sigmoid(low) min(w), sigmoid(up) max(w)]

- both logits of every row and group start at 4
- loss: squared distance of the block's output, on inputs from the compressed prefix, from the uncompressed model's;
  `augmented` adds the distance from what the uncompressed block makes of the same inputs
- AdamW without weight decay

The learned equivalent transform (LET) is left out, as in the released scripts for LLaMA's weights. Where this departs
from the paper: 100 steps of one batch of four windows at a learning rate of 0.05, instead of 20 to 40 epochs at 0.01
over 128 sequences of 2,048 tokens, so that two cores are enough; the parameters of the least loss on all data are kept
instead of the last ones; scales and zero points are rounded to their stored form in every step; float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tailorbird.tune.learning import Clipping


@dataclass(frozen=True, kw_only=True)
class OmniQuant(Clipping):
    """Adam on the logits of both ends of every range."""

    name: ClassVar[str] = "omniquant"
    title: ClassVar[str] = "OmniQuant: omnidirectionally calibrated quantization for large language models"
    paper: ClassVar[str] = "arXiv 2308.13137"
