"""`Learning`: what all methods that learn on a block's outputs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.optim import AdamW

from tailorbird.errors import UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.search import RangeSearch, ratios
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.formats.grid import Grid
from tailorbird.measure.block import Block
from tailorbird.measure.statistics import Need, Stats
from tailorbird.method import Method
from tailorbird.tune.learn import CHECKS, augmented_loss, block_loss, learn
from tailorbird.tune.quantizers import Clip

Start = Literal["minmax", "search", "sweep"]
SEARCH = RangeSearch(ratios(10, 0.5))


@dataclass(frozen=True, kw_only=True)
class Learning(Method):
    """Options of every method that learns on a block's outputs.

    Attributes:
        iterations: gradient steps for a block; 0 leaves the start as it is.
        batches: calibration batches (of up to four windows) a step.
        start: where learning begins: ``minmax`` ranges, ranges by ``search``, or the codes of a GPTQ ``sweep`` with
            searched ranges.
        ends: how embedding and head, which are in no block, are fitted: as one of these, without learning.
        damp: part of the mean Hessian diagonal added to it, in sweeps.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "block", "reference"})

    iterations: int = 100
    batches: int = 1
    start: Start = "minmax"
    ends: Start = "sweep"
    damp: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        starts = get_args(Start)
        if self.iterations < 0 or self.batches < 1 or self.start not in starts or self.ends not in starts:
            raise UsageError(
                f"iterations={self.iterations}, batches={self.batches}, start={self.start!r}, ends={self.ends!r}",
                hint="iterations 0 or more, batches 1 or more, start and ends are minmax, search or sweep",
            )

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """A part outside the blocks."""
        return fit_as(weight, stats, spec, self.ends, self.damp)

    def passes(self, batches: int) -> float:
        """Three for a step on all data, one for each time the whole loss is compared."""
        return 3 * self.iterations * self.batches / batches + 1 + CHECKS

    def started(self, block: Block, specs: Mapping[str, PlaneSpec]) -> dict[str, tuple[Tensor, Grid]]:
        """The weights to be rounded and their grids at the start, by part name."""
        return {
            name: begin(block.weights[name], block.stats[name], spec, self.start, self.damp)
            for name, spec in specs.items()
        }


@dataclass(frozen=True, kw_only=True)
class Clipping(Learning):
    """Methods that learn the ends of all ranges: AdamW on two logits for every row and group.

    Attributes:
        rate: learning rate; the papers take 0.01 and some thousand steps.
        logit: all logits at first; the sigmoid of 4 is 0.982.
        augmented: count the distance from what the uncompressed block makes of the same inputs too.
    """

    rate: float = 0.05
    logit: float = 4.0
    augmented: bool = False

    def passes(self, batches: int) -> float:
        """One more for every forward pass where the uncompressed block is run beside it."""
        return super().passes(batches) + self.augmented * (self.iterations * self.batches / batches + 1 + CHECKS)

    def tune(self, block: Block, specs: Mapping[str, PlaneSpec]) -> Mapping[str, Fitted]:
        """Learn a block's ranges."""
        clips = {name: Clip(*start, self.logit) for name, start in self.started(block, specs).items()}
        optimizer = AdamW([p for clip in clips.values() for p in clip.learned], lr=self.rate, weight_decay=0)
        loss = augmented_loss if self.augmented else block_loss
        learn(block, clips, optimizer, loss, self.iterations, self.batches)
        return {name: clip.fitted() for name, clip in clips.items()}


def begin(weight: Tensor, stats: Stats, spec: PlaneSpec, start: Start, damp: float) -> tuple[Tensor, Grid]:
    """What is rounded, float32 (rows, cols), and the grid it is rounded to, before anything is learned.

    After a sweep that is the weight as the sweep met it: rounding it gives the sweep's codes, and how far each weight
    is from its neighbouring codes still says which of them it would rather have.
    """
    if start != "sweep":
        return weight, fit_as(weight, stats, spec, start, damp).grid
    met = torch.empty_like(weight)
    return met, fit_as(weight.clone(), stats, spec, start, damp, met).grid


def fit_as(weight: Tensor, stats: Stats, spec: PlaneSpec, how: Start, damp: float, met: Tensor | None = None) -> Fitted:
    """Nothing learned: rounding to min-max or searched ranges, or a sweep with searched ranges, which may overwrite the
    weight; `met` see `sweep`."""
    if how == "sweep":
        upper, dead = stats.factor(damp)
        weight[:, dead] = 0
        return sweep(weight, spec, SEARCH, upper, met=met)
    return sweep(weight, spec, SEARCH if how == "search" else minmax)
