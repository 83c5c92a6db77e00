"""SliM-LLM: salience-driven mixed precision inside a weight (Huang et al., arXiv 2405.14917), Algorithm A.

- score: salience of a group, the mean of w^2 / d
- allocate: the i least salient groups get one bit less, the i most salient one more; i is scanned for the least
  divergence of outputs
- fit: the GPTQ sweep with bits by group and a range search for every group

d is the squared diagonal of U, the sweep's own factor of H^-1 = U^T U, as in the released code: (w - q)^2 / U_jj^2 is
what the sweep loses at column j, when earlier columns are fixed and later ones make up for it. The paper's d, the
squared diagonal of H^-1, lets every column make up for every other; it ranks groups at the end of a row too low, and
bits taken from those are lost for good (`diagonal="inverse"`; on planted layers it gives a quarter more error).

The released code never considers uniform bits (`released`), and ranks twice with two dampings; here salience is
computed once, with the sweep's own damping, and layers of fewer than four groups keep uniform bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.search import RangeSearch
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.spec import MAX_BITS
from tailorbird.measure.statistics import Need, Stats, measured
from tailorbird.method import Method

Diagonal = Literal["cholesky", "inverse"]
FLOOR = 1e-6
OUTPUTS = 2**26  # outputs compared at once; a head of 262,144 rows gets 256 tokens


@dataclass(frozen=True, kw_only=True)
class SlimLLM(Method):
    """Mixed bits by group at the same average, then GPTQ with searched ranges.

    Attributes:
        damp: part of the mean Hessian diagonal added to it.
        mix: choose bits by group; without, every group has the same.
        search: candidates on either side of the min-max range (the paper: 50, which costs five times as much); 0
            leaves ranges as they are.
        reach: largest relative change of the range that is tried (the paper's lambda, there 0.1: too little for two
            bits, where the best range is well inside min-max).
        diagonal: what salience divides by: ``cholesky`` the sweep's own loss, ``inverse`` the paper's.
        released: as the released code, never uniform bits.
    """

    name: ClassVar[str] = "slim-llm"
    title: ClassVar[str] = "SliM-LLM: salience-driven mixed-precision quantization for large language models"
    paper: ClassVar[str] = "arXiv 2405.14917"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "inputs"})

    damp: float = 0.01
    mix: bool = True
    search: int = 10
    reach: float = 0.5
    diagonal: Diagonal = "cholesky"
    released: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        super().__post_init__()
        if self.diagonal not in ("cholesky", "inverse") or self.search < 0 or not 0 <= self.reach < 1:
            raise UsageError(
                f"diagonal={self.diagonal!r}, search={self.search}, reach={self.reach}",
                hint="diagonal is cholesky or inverse, search 0 or more, reach from 0 to below 1",
            )

    def decide(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> PlaneSpec:
        """Bits by group with the average of `spec`: more for salient groups, then as many changed pairs as pay."""
        if not self.mix:
            return spec
        order = salience(weight, stats, spec.group_size, self.damp, self.diagonal).argsort(stable=True).tolist()
        spec = ranked(spec, order)
        divergence = scan(weight, measured(stats.inputs), spec, order)
        candidates = [mixed(spec, order, i) for i in range(len(divergence))]
        # Bits of one width fill whole bytes, so that odd groups can cost more in another mixture.
        possible = [i for i, found in enumerate(candidates) if _row_bytes(found) <= _row_bytes(spec)]
        if self.released:
            possible = possible[1:] or possible
        return candidates[min(possible, key=divergence.__getitem__)]

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """The sweep with these bits."""
        upper, dead = stats.factor(self.damp)
        weight[:, dead] = 0
        return sweep(weight, spec, RangeSearch(self.ratios()) if self.search else minmax, upper)

    def ratios(self) -> list[float]:
        """Multiples of the range: `search` equal steps up to 1 + reach and as many down to 1 - reach."""
        steps = [self.reach * k / self.search for k in range(1, self.search + 1)]
        return [1 + step for step in steps] + [1 - step for step in steps]


def salience(weight: Tensor, stats: Stats, group_size: int, damp: float, diagonal: Diagonal = "cholesky") -> Tensor:
    """Salience of every group, float32 (groups,); weight is float32 (rows, cols)."""
    upper, _ = stats.factor(damp)
    # Diagonal of H^-1 = U^T U: squared column norms of U.
    divisor = upper.diagonal().square() if diagonal == "cholesky" else upper.square().sum(0).square()
    columns = torch.zeros(weight.shape[1])
    for rows in torch.split(weight, 16384):
        columns += rows.square().sum(0)
    return (columns / divisor).view(-1, group_size).mean(1) / weight.shape[0]


def ranked(spec: PlaneSpec, order: list[int]) -> PlaneSpec:
    """The bits of `spec` dealt out anew: the fewest to the first group of `order`, the most to the last."""
    bits = dict(zip(order, sorted(spec.bits), strict=True))
    return replace(spec, bits=tuple(bits[group] for group in range(len(order))))


def mixed(spec: PlaneSpec, order: list[int], i: int) -> PlaneSpec:
    """`spec` with one bit less for the first i groups of `order` and one more for the last i."""
    bits = list(spec.bits)
    for low, high in zip(order[:i], order[::-1][:i], strict=True):
        bits[low] -= 1
        bits[high] += 1
    return replace(spec, bits=tuple(bits))


def scan(weight: Tensor, inputs: Tensor, spec: PlaneSpec, order: list[int]) -> list[float]:
    """KL( softmax(X Wq^T) || softmax(X W^T) ) for i = 0 .. groups // 2 - 1 pairs of changed groups, Wq rounded
    without compensation.

    One candidate differs from the one before in two groups, so only their outputs are computed again.

    Args:
        weight: float32 (rows, cols).
        inputs: float32 (tokens, cols).
        spec: the bits of every group before any pair is changed.
        order: groups by rising salience.
    """
    size = spec.group_size
    # Scales of their own for every group, so that rounding one group again leaves the others as they were.
    spec = replace(spec, scale="fp16")
    inputs = inputs[:: max(1, inputs.shape[0] * weight.shape[0] // OUTPUTS)]
    reference = (inputs @ weight.T).softmax(1).clamp_min(FLOOR)
    output = inputs @ _rounded(weight, spec).T
    found = [_divergence(output, reference)]
    for i in range(1, max(1, len(order) // 2)):
        pair = ((order[i - 1], -1), (order[-i], 1))
        if not all(1 <= spec.bits[group] + change <= MAX_BITS for group, change in pair):
            break
        for group, change in pair:
            part = slice(group * size, (group + 1) * size)
            one = replace(spec, bits=(spec.bits[group],))
            more = replace(spec, bits=(spec.bits[group] + change,))
            step = _rounded(weight[:, part], more) - _rounded(weight[:, part], one)
            output.addmm_(inputs[:, part], step.T)
        found.append(_divergence(output, reference))
    return found


def _row_bytes(spec: PlaneSpec) -> int:
    return BitPlanes.plan(1, spec).nbytes


def _rounded(weight: Tensor, spec: PlaneSpec) -> Tensor:
    return sweep(weight, spec, minmax).pack().dequantize()


def _divergence(output: Tensor, reference: Tensor) -> float:
    p = output.softmax(1).clamp_min(FLOOR)
    return float((p * (p / reference).log()).sum())
