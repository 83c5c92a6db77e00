"""`Sites`: what a solver decides on. A site is a part, or parts that must agree; its options are formats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.allocate.rules import Rules
from tailorbird.allocate.solve import Array, Choice
from tailorbird.anatomy.part import Part
from tailorbird.formats import Spec, between, widths
from tailorbird.formats.spec import MAX_BITS

SpecOf = Callable[[Part, int], Spec]
Value = Callable[[Part, Spec], float]
# A site of at least this share of all weights may have more bits in some of its groups: whole bits of it are too
# coarse a step for a budget.
LARGE = 0.05
STEPS = 4


@dataclass(frozen=True)
class Sites:
    """Sites with their options.

    Attributes:
        units: the parts of every site.
        options: formats of a site's parts, by site and option.
    """

    units: Sequence[Sequence[Part]]
    options: Sequence[Sequence[tuple[Spec, ...]]]

    @classmethod
    def of(cls, parts: Sequence[Part], spec_of: SpecOf, rules: Rules, levels: int = MAX_BITS) -> Sites:
        """One to eight bits for every part and levels above, for large ones steps between.

        Args:
            parts: what is to be stored.
            spec_of: the format of a part at a number of bits, under the rules; above eight, at a level (`finer`).
            rules: which parts must agree.
            levels: the last of these.
        """
        large = LARGE * sum(part.numel for part in parts)
        units = rules.units(parts)
        options = []
        for unit in units:
            whole = [tuple(spec_of(part, bits) for part in unit) for bits in range(1, levels + 1)]
            # Losses are known by width: of formats of one width the last, the best, stands for all.
            found = list({tuple(spec.mean_bits for spec in specs): specs for specs in whole}.values())
            if len(unit) == 1 and unit[0].numel >= large:
                found = [(spec,) for spec in _stepped(unit[0], [spec for (spec,) in found], rules)]
            options.append(found)
        return cls(units, options)

    def table(self, value: Value) -> Array:
        """The sum of a value over the parts of every site by option, float (sites, options); infinite where a site
        has fewer options."""
        found = np.full((len(self.units), max(map(len, self.options))), np.inf)
        for site, unit in enumerate(self.units):
            for option, specs in enumerate(self.options[site]):
                found[site, option] = sum(value(part, spec) for part, spec in zip(unit, specs, strict=True))
        return found

    def specs(self, choice: Choice) -> dict[str, Spec]:
        """Format by part name."""
        return {
            part.name: spec
            for unit, options, option in zip(self.units, self.options, choice.tolist(), strict=True)
            for part, spec in zip(unit, options[option], strict=True)
        }


def interpolated(losses: Mapping[int, float], spec: Spec, by_rows: bool = False) -> float:
    """Loss of a format from losses by bits; beyond the bits there are errors fall with the square of the step.

    Args:
        losses: by bits.
        spec: the format. Its loss is the mean over its groups, where it has any, else that of its mean bits.
        by_rows: it only says how many bytes there are for classes of rows: a byte more goes where it is worth most, so
            that losses fall by the same factor with every part of a bit.
    """
    top = max(losses)
    found = [_at(losses, bits, top) for bits in widths(spec)]
    if by_rows and min(found) > 0:
        return math.exp(sum(map(math.log, found)) / len(found))
    return sum(found) / len(found)


def _at(losses: Mapping[int, float], bits: int, top: int) -> float:
    if bits <= top:
        # A runtime may not know some bits: then nobody measured them, and nobody will ask for them.
        return losses.get(bits, losses[min(known for known in losses if known >= bits)])
    return losses[top] * float((2**top - 1) / (2**bits - 1)) ** 2


def _stepped(part: Part, whole: list[Spec], rules: Rules) -> list[Spec]:
    """Formats with formats between: a quarter, half, three quarters of the groups have the bits of the next. These
    are the last groups: in a sweep nothing after them can make up for their errors."""
    found = whole[:1]
    for low, high in itertools.pairwise(whole):
        groups = low.cols // getattr(low, "group_size", low.cols)
        cuts = sorted({groups * step // STEPS for step in range(1, STEPS)} - {0, groups}, reverse=True)
        mixed = [between(low, high, cut) for cut in cuts]
        found += [spec for spec in mixed if spec is not None and rules.allows(part, spec)]
        found.append(high)
    return found
