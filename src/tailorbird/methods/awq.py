"""AWQ: activation-aware weight quantization (Lin et al., arXiv 2306.00978).

- transform: columns that meet large inputs are scaled up before they are rounded, by s = mean|x|^r, and what makes the
  inputs is scaled down: the gains of the norm, or the rows of the layer before. The ratio r is the one of a grid whose
  rounded weights change the outputs least: of the attention for q, k and v, of the MLP for gate and up, of the layer
  itself for o (where its inputs are v's outputs one to one) and down.
- fit: per row and group the range is clipped to where the group's outputs lose least, but not of q and k; then round,
  or sweep as GPTQ does (`compensate`).

Ranges include zero, as everywhere here; AWQ's need not. A layer before that has biases keeps its scale: they are stored
as they are. Models whose wiring nobody described are clipped only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.clip import clipped
from tailorbird.fit.groups import minmax
from tailorbird.fit.rounding import rounded
from tailorbird.fit.search import CLIPS, RangeSearch
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec, affine
from tailorbird.kernels import dense
from tailorbird.measure.block import Block, Transformed
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method
from tailorbird.transform import scale

Loss = Callable[[Mapping[str, Tensor]], float]
# Ratios that tell how long the others take.
FEW = 3


@dataclass(frozen=True, kw_only=True)
class AWQ(Method):
    """Scales by channel, then clipped ranges, then rounding.

    Attributes:
        grid: ratios that are tried: 0, 1 / grid, ... below 1; 1 leaves scales alone.
        clip: search the ranges.
        compensate: feed errors to later columns (GPTQ) instead of rounding, with ranges searched in the sweep.
        damp: part of the mean Hessian diagonal added to it where errors are fed on.
    """

    name: ClassVar[str] = "awq"
    title: ClassVar[str] = "AWQ: activation-aware weight quantization for LLM compression and acceleration"
    paper: ClassVar[str] = "arXiv 2306.00978"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "inputs", "block"})

    grid: int = 20
    clip: bool = True
    compensate: bool = False
    damp: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        if self.grid < 1:
            raise UsageError(f"grid={self.grid}", hint="1 or more ratios")

    def transform(self, block: Block) -> Transformed:
        """Search the scales, one set of layers after the other."""
        search = _Search(block, [k / self.grid for k in range(self.grid)])
        if block.wiring is not None and self.grid > 1:
            for norm, names in block.wiring.norms.items():
                search.after_norm(norm, names)
            for before, after in (*block.wiring.values, *block.wiring.products):
                search.after_layer(before, after)
        return Transformed(search.changed, search.scales)

    def shortened(self) -> tuple[AWQ, float]:
        """A few ratios; what is done once takes about as long as one of them."""
        few = min(self.grid, FEW)
        return replace(self, grid=few), (self.grid + 1) / (few + 1)

    def tune(self, block: Block, specs: Mapping[str, PlaneSpec]) -> Mapping[str, Fitted]:
        """Layers whose outputs are multiplied with each other are not clipped; all others are left to `fit`."""
        scored = block.wiring.scored if block.wiring else ()
        whole = [part for part in block.parts if part.name.removeprefix(f"{block.name}.") in scored]
        return {
            part.name: self._fit(block.weights[part.name].clone(), block.stats[part.name], specs[part.name], False)
            for part in whole
        }

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Clip and round."""
        return self._fit(weight, stats, spec, self.clip)

    def _fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec, clip: bool) -> Fitted:
        if not self.compensate:
            return sweep(clipped(weight, measured(stats.gram), spec) if clip else weight, spec, minmax)
        # A sweep makes up for what ranges cut off, so that they are chosen as it reaches them.
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        return sweep(weight, spec, RangeSearch(CLIPS) if clip else minmax, upper)


class _Search:
    """The scale search of one block.

    Attributes:
        changed: tensors as the scales found so far leave them, by tensor name.
        scales: what columns were multiplied by so far, by part name; columns of a layer have one set of scales.
    """

    def __init__(self, block: Block, ratios: Sequence[float]) -> None:
        self.block, self.ratios = block, ratios
        self.weights = dict(block.weights)
        self.changed: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}

    def after_norm(self, norm: str, names: Sequence[str]) -> None:
        """Scales between a norm and the layers that read it, by the output of the module these stand in."""
        readers, name = self._own(names), self._name(norm) + ".weight"
        wiring = self.block.wiring
        assert wiring is not None
        if not readers or name not in self.block.kept:
            return
        gains = self.block.kept[name]
        # Without the layers that end later modules, the block's output tells of this one's alone.
        later = [after for before, after in wiring.products if before not in names]
        silent = {n: torch.zeros_like(self.weights[n]) for n in self._own(later)}
        wanted = self._output(silent)

        def loss(given: Mapping[str, Tensor]) -> float:
            return float((self._output({**given, **silent}) - wanted).square().mean())

        found = [scale.into_norm(gains, s, wiring.unit) for s in self._candidates(readers[0])]
        best = self._best(readers, [s for _, s in found], loss)
        self.changed[name] = found[best][0]
        self._multiply(readers, found[best][1])

    def after_layer(self, before: str, after: str) -> None:
        """Scales between a layer and the one that reads its outputs one to one, by the latter's outputs."""
        if len(pair := self._own((before, after))) < 2 or f"{pair[0]}.bias" in self.block.kept:
            return
        first, second = pair
        if self.weights[first].shape[0] != self.weights[second].shape[1]:
            return
        weight, gram = self.weights[second], measured(self.block.stats[second].gram)

        def loss(given: Mapping[str, Tensor]) -> float:
            lost = given[second] - weight
            with dense.mixed():
                outputs = lost @ gram
            return float((outputs * lost).sum())

        scales = self._candidates(second)
        best = scales[self._best([second], scales, loss)]
        self._set(first, scale.rows(self.weights[first], best))
        self._multiply([second], best)

    def _candidates(self, name: str) -> list[Tensor]:
        """mean|x|^r for every ratio, around one: divided by the root of largest times smallest."""
        mean = measured(self.block.stats[name].inputs).abs().mean(0)
        powers = [mean.pow(ratio).clamp_min(1e-4) for ratio in self.ratios]
        return [power / (power.max() * power.min()).sqrt() for power in powers]

    def _best(self, names: Sequence[str], candidates: Sequence[Tensor], loss: Loss) -> int:
        """The candidate under which the rounded layers lose least; the first, no scaling, of equals."""

        def rounded_under(s: Tensor) -> dict[str, Tensor]:
            return {
                n: rounded(self.weights[n] * s, affine(self.block.planned[n])).div_(s)
                for n in names
            }  # fmt: skip

        losses = [loss(rounded_under(s)) for s in candidates]
        return min(range(len(losses)), key=losses.__getitem__)

    def _output(self, given: Mapping[str, Tensor]) -> Tensor:
        kept = {name: tensor for name, tensor in self.changed.items() if name in self.block.kept}
        with dense.mixed():
            return self.block.run(0, self.weights | dict(given), kept=kept, inputs=self.block.inputs[0][:1])

    def _multiply(self, names: Sequence[str], s: Tensor) -> None:
        for name in names:
            self.scales[name] = s
            self._set(name, scale.columns(self.weights[name], s))

    def _set(self, name: str, weight: Tensor) -> None:
        self.weights[name] = self.changed[f"{name}.weight"] = weight

    def _own(self, names: Sequence[str]) -> list[str]:
        """Full names of the parts of these names that the block has."""
        return [name for name in map(self._name, names) if name in self.weights]

    def _name(self, path: str) -> str:
        return f"{self.block.name}.{path}"
