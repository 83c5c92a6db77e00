"""Range search: of several shrunken or stretched ranges of a group, the one that loses least, row by row.

Source: SliM-LLM's salience-weighted quantizer calibration, arXiv 2405.14917; GPTQ's grid search is the same with
    ratios below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.fit.groups import minmax, ranged
from tailorbird.formats.spec import Offset

NORM = 2.4
# Shares of the range that clipping tries: down to half of it in steps of a twentieth.
CLIPS = tuple(1 - k / 20 for k in range(1, 11))


def ratios(steps: int, reach: float) -> list[float]:
    """Multiples of a range: `steps` equal steps up to 1 + reach and as many down to 1 - reach."""
    changes = [reach * k / steps for k in range(1, steps + 1)]
    return [1 + change for change in changes] + [1 - change for change in changes]


@dataclass(frozen=True)
class RangeSearch:
    """A group fitter that tries ``ratio * [min, max]`` for every ratio; 1 is always tried, so it never loses to
    min-max.

    Attributes:
        ratios: multiples of the range.
        norm: exponent of the error.
    """

    ratios: Sequence[float]
    norm: float = NORM

    def __call__(self, w: Tensor, bits: int, offset: Offset) -> tuple[Tensor, Tensor]:
        """Scale and offset of a group, see `groups`. One-bit groups are fitted in closed form."""
        best_scale, best_offset = minmax(w, bits, offset)
        if bits == 1:
            return best_scale, best_offset
        least = self.error(w, best_scale, best_offset, bits)
        low, high = w.amin(0), w.amax(0)
        for ratio in self.ratios:
            scale, start = ranged(low * ratio, high * ratio, bits, offset)
            error = self.error(w, scale, start, bits)
            better = error < least
            least = torch.where(better, error, least)
            best_scale = torch.where(better, scale, best_scale)
            best_offset = torch.where(better, start, best_offset)
        return best_scale, best_offset

    def error(self, w: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Tensor:
        """sum |w - q(w)|^norm of each row, w (group, rows); returns (rows,)."""
        code = (w - offset).div_(scale).round_().clamp_(0, 2**bits - 1)
        return torch.addcmul(offset, code, scale).sub_(w).abs_().pow_(self.norm).sum(0)
