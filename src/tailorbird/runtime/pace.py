"""`Pace`: how fast this machine is at the moment, by products that are always the same.

A processor that others share is slower at one time than a minute later, by more than a budget may be off. A profile
keeps what these products took while it was made; a model decodes in turns with them, and what a token takes is told at
the pace of the profile. On a quiet machine that is what the clock says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from tailorbird.formats import PlaneSpec
from tailorbird.kernels.matrix import PackedMatrix

GROUP_SIZE = 64
# Matrices of 23 MB: what one of them leaves in a cache, the others and the model between have taken out again.
ROWS, COLS, BITS, MATRICES = 65536, 640, 4, 6
NBYTES = MATRICES * ROWS * COLS * (BITS + 1) // 8
# Of the products, and of the model: where the speed wavers, it is over seconds.
TURNS = 200
TOKENS = 16


@dataclass(frozen=True)
class Timed:
    """What a token takes.

    Attributes:
        milliseconds: at the pace of the profile.
        slower: times that the machine was slower than that meanwhile; None where it was not measured.
    """

    milliseconds: float
    slower: float | None = None


class Pace:
    """Products that tell how fast this machine is."""

    def __init__(self) -> None:
        self.matrices = [blank(ROWS, COLS, BITS) for _ in range(MATRICES)]
        self.x = torch.ones(1, COLS)

    def __call__(self) -> float:
        """Milliseconds of all of them, this time."""
        start = perf_counter()
        for matrix in self.matrices:
            matrix.matmul(self.x)
        return 1e3 * (perf_counter() - start)


def told(decode: Callable[[], float], pace: Callable[[], float], usual: float, turns: int = TURNS) -> Timed:
    """What decoding takes, in turns with the products of `Pace`; the first turn warms up.

    Args:
        decode: milliseconds of a token, this time.
        pace: milliseconds of the products, this time.
        usual: milliseconds of the products by the profile.
        turns: of both.
    """
    found = [(decode(), pace()) for _ in range(turns + 1)][1:]
    slower = median(now for _, now in found) / usual
    return Timed(median(took for took, _ in found) / slower, slower)


def blank(rows: int, cols: int, bits: int) -> PackedMatrix:
    """A weight of any codes: what stands in it does not change how long it takes."""
    spec = PlaneSpec.uniform(bits, cols, GROUP_SIZE)
    arrays = {name: torch.ones_like(array, device="cpu") for name, array in spec.plan(rows).arrays.items()}
    return PackedMatrix.from_arrays(rows, spec.bits, GROUP_SIZE, arrays)
