"""The simple allocation: the same bits everywhere, and what is left spent where it buys most.

Parts inside the blocks are raised one bit first: they are the smaller share of a small model, and lose more by a bit.
Then the embedding and the head as far as the budget goes, by groups of columns; then the blocks once more. Only where
that leaves an embedding or a head too little, it comes first. Parts of blocks are small, so the budget is used to
within the smallest of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tailorbird.allocate.rules import FREE, Rules
from tailorbird.anatomy.part import Part
from tailorbird.errors import BudgetError
from tailorbird.formats import PlaneSpec, Spec, between
from tailorbird.formats.spec import MAX_BITS

SpecOf = Callable[[Part, int], Spec]
CostOf = Callable[[Part, Spec], int]


def uniform(
    parts: Sequence[Part],
    spec_of: SpecOf,
    cost_of: CostOf,
    limit: int,
    rules: Rules = FREE,
    lead: int = 0,
    least: float = 0,
) -> dict[str, Spec]:
    """Choose bits for every part so that their sum of bytes is at most `limit` and close to it.

    Args:
        parts: what is to be stored.
        spec_of: the format of a part at a number of bits.
        cost_of: bytes of a part in a format.
        limit: bytes for all parts together.
        rules: what the formats must obey; `spec_of` does so already. Tied parts are raised together.
        lead: bits that the other parts have before the embedding and the head, when all have some.
        least: bits of an embedding or a head below which it is raised before the parts of the blocks.

    Returns:
        Format by part name.

    Raises:
        BudgetError: even one bit everywhere is too large; says what the smallest size is.
    """
    room, base = _base(parts, spec_of, cost_of, limit, lead)
    units = rules.units(parts)
    inner = [unit for unit in units if not outside(unit[0])]
    outer = [unit for unit in units if outside(unit[0])]

    def shared(order: Sequence[list[Part]]) -> dict[str, Spec]:
        left, specs = room, dict(base)
        for unit in order:
            for raised in _raised(unit, specs[unit[0].name], spec_of, rules, outside(unit[0])):
                step = sum(cost_of(part, spec) - cost_of(part, specs[part.name]) for part, spec in raised)
                if step <= left:
                    specs.update({part.name: spec for part, spec in raised})
                    left -= step
                    break
        return specs

    specs = shared([*inner, *outer, *inner])
    if any(specs[unit[0].name].mean_bits < least for unit in outer):
        return shared([*outer, *inner, *outer, *inner])
    return specs


def outside(part: Part) -> bool:
    """An embedding or a head: rows of them can have bits of their own, see `allocate.rows`."""
    return part.role in ("embedding", "head")


def _base(
    parts: Sequence[Part], spec_of: SpecOf, cost_of: CostOf, limit: int, lead: int
) -> tuple[int, dict[str, Spec]]:
    """The most bits that all parts can have alike but for the lead, and the bytes that leaves."""
    for bits in range(MAX_BITS + lead, 0, -1):
        ends, others = max(1, bits - lead), min(bits, MAX_BITS)
        specs = {part.name: spec_of(part, ends if outside(part) else others) for part in parts}
        total = sum(cost_of(part, specs[part.name]) for part in parts)
        if total <= limit:
            return limit - total, specs
    raise BudgetError(
        f"the weights need at least {total} bytes (1 bit a weight with its scales), the budget leaves {limit}",
        hint=f"raise the budget by {total - limit} bytes, or take larger groups",
    )


def _raised(
    unit: list[Part], now: Spec, spec_of: SpecOf, rules: Rules, by_groups: bool
) -> Iterator[list[tuple[Part, Spec]]]:
    """Better formats of parts that change together: the next more bits for all, the best format of that width first;
    for a part alone, for its last groups, most groups first: in a sweep nothing after them can make up for their
    errors."""
    top = max(now.bits) if isinstance(now, PlaneSpec) else math.ceil(now.mean_bits)
    forms = [spec_of(unit[0], bits) for bits in range(1, MAX_BITS + 1)]
    known = max((bits for bits, form in enumerate(forms, 1) if form == now), default=top)
    above = [bits for bits in range(known + 1, MAX_BITS + 1) if forms[bits - 1] != now]
    for bits in reversed(above):
        if forms[bits - 1].mean_bits == forms[above[0] - 1].mean_bits:
            yield [(part, spec_of(part, bits)) for part in unit]
    if by_groups and len(unit) == 1 and top < MAX_BITS:
        for keep in range(1, now.cols // getattr(now, "group_size", now.cols)):
            mixed = between(now, _wider(now, spec_of(unit[0], top + 1)), keep)
            if mixed is not None and rules.allows(unit[0], mixed):
                yield [(unit[0], mixed)]


def _wider(now: Spec, above: Spec) -> Spec:
    """A bit more for every group."""
    return replace(now, bits=tuple(bits + 1 for bits in now.bits)) if isinstance(now, PlaneSpec) else above
