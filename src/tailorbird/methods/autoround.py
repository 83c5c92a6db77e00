"""AutoRound: rounding and ranges learned by signed gradients (Cheng et al., SignRound, arXiv 2309.05516).

    w_q = s (clamp(round(w / s + z + v), 0, 2^b - 1) - z),   s, z from [a low, b high]

- v starts at 0 and is bounded by its steps, whose sizes add up to half a code; a and b start at 1, stay in [0, 1]
- loss: squared distance of the block's output, on inputs from the compressed prefix, from the uncompressed model's
- p <- p - lr sign(gradient), lr = 1 / iterations, falling linearly to 0; the parameters of the least loss are kept

Where this departs from the paper: low and high are searched ranges, not min and max (`start=minmax`), which on a block
of Gemma 3 270M ended better at 2 and 3 bits, on other text too; 100 iterations instead of 200, and one batch of four
windows each instead of eight sequences of 2,048 tokens, so that two cores are enough; the least loss is that of all
calibration data, compared four times, not of each step's own batch; scales and zero points are rounded to their stored
form in every step; symmetric ranges are as wide on either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tailorbird.fit.sweep import Fitted
from tailorbird.formats import PlaneSpec
from tailorbird.measure.block import Block
from tailorbird.tune.learn import SignSGD, block_loss, learn
from tailorbird.tune.learning import Learning, Start
from tailorbird.tune.quantizers import Shift


@dataclass(frozen=True, kw_only=True)
class AutoRound(Learning):
    """Signed gradient steps on a shift before rounding and on both ends of every range.

    Attributes:
        reach: what all steps of a shift add up to, in codes. The paper's 0.5 lets every code change to its neighbour;
            after a sweep, whose codes belong together, less does better.
    """

    name: ClassVar[str] = "autoround"
    title: ClassVar[str] = "AutoRound: optimize weight rounding via signed gradient descent"
    paper: ClassVar[str] = "arXiv 2309.05516"

    start: Start = "search"
    reach: float = 0.5

    def tune(self, block: Block, specs: Mapping[str, PlaneSpec]) -> Mapping[str, Fitted]:
        """Learn a block's rounding."""
        shifts = {name: Shift(*start) for name, start in self.started(block, specs).items()}
        rate = 2 * self.reach / max(self.iterations, 1)
        optimizer = SignSGD([p for shift in shifts.values() for p in shift.learned], lr=rate)
        learn(block, shifts, optimizer, block_loss, self.iterations, self.batches, decay=True)
        return {name: shift.fitted() for name, shift in shifts.items()}
