"""The simple allocation: the same bits everywhere, and what is left spent where it buys most.

Parts inside the blocks are raised one bit first: they are the smaller share of a small model, and lose more by a bit.
Then the embedding and the head as far as the budget goes, by groups of columns; then the blocks once more. Parts of
blocks are small, so the budget is used to within the smallest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tailorbird.anatomy.part import Part
from tailorbird.errors import BudgetError
from tailorbird.formats import PlaneSpec
from tailorbird.formats.spec import MAX_BITS

SpecOf = Callable[[Part, int], PlaneSpec]
CostOf = Callable[[Part, PlaneSpec], int]


def uniform(parts: Sequence[Part], spec_of: SpecOf, cost_of: CostOf, limit: int) -> dict[str, PlaneSpec]:
    """Choose bits for every part so that their sum of bytes is at most `limit` and close to it.

    Args:
        parts: what is to be stored.
        spec_of: the format of a part at a number of bits.
        cost_of: bytes of a part in a format.
        limit: bytes for all parts together.

    Returns:
        Format by part name.

    Raises:
        BudgetError: even one bit everywhere is too large; says what the smallest size is.
    """
    left, specs = _base(parts, spec_of, cost_of, limit)
    inner = [part for part in parts if part.role not in ("embedding", "head")]
    outer = [part for part in parts if part.role in ("embedding", "head")]
    for part in [*inner, *outer, *inner]:
        for groups in _steps(part, specs[part.name], part in outer):
            raised = _raise(specs[part.name], groups)
            step = cost_of(part, raised) - cost_of(part, specs[part.name])
            if step <= left:
                specs[part.name], left = raised, left - step
                break
    return specs


def _base(parts: Sequence[Part], spec_of: SpecOf, cost_of: CostOf, limit: int) -> tuple[int, dict[str, PlaneSpec]]:
    """The most bits that all parts can have alike, and the bytes that leaves."""
    for bits in range(MAX_BITS, 0, -1):
        specs = {part.name: spec_of(part, bits) for part in parts}
        total = sum(cost_of(part, specs[part.name]) for part in parts)
        if total <= limit:
            return limit - total, specs
    raise BudgetError(
        f"the weights need at least {total} bytes (1 bit a weight with its scales), the budget leaves {limit}",
        hint=f"raise the budget by {total - limit} bytes, or take larger groups",
    )


def _steps(part: Part, spec: PlaneSpec, by_groups: bool) -> range:
    """How many groups to raise, most first."""
    groups = len(spec.bits) if max(spec.bits) < MAX_BITS else 0
    return range(groups, 0, -1) if by_groups else range(groups, 0, -max(1, groups))


def _raise(spec: PlaneSpec, groups: int) -> PlaneSpec:
    """One more bit for the last groups: in a sweep nothing after them can make up for their errors."""
    keep = len(spec.bits) - groups
    return replace(spec, bits=spec.bits[:keep] + tuple(bits + 1 for bits in spec.bits[keep:]))
