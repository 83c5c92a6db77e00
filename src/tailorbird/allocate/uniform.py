"""The simple allocation: the same bits everywhere, and what is left spent on the parts inside the blocks first.

Inside a block a weight is worth more than in the embedding or the head (measured in docs/benchmarks.md), and a
block's parts are small, so that raising them one by one fills a budget to within the smallest part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tailorbird.anatomy.part import Part
from tailorbird.errors import BudgetError
from tailorbird.formats import PlaneSpec
from tailorbird.formats.spec import MAX_BITS

SpecOf = Callable[[Part, int], PlaneSpec]
Cost = Callable[[Mapping[str, PlaneSpec]], int]
# Parts of blocks run ahead of the embedding and the head by at most this many bits.
LEAD = 2


def uniform(
    parts: Sequence[Part], spec_of: SpecOf, cost_of: Callable[[Part, PlaneSpec], int], limit: int
) -> dict[str, PlaneSpec]:
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
    cost = {(part.name, bits): cost_of(part, spec_of(part, bits)) for part in parts for bits in range(1, MAX_BITS + 1)}
    levels = [bits for bits in range(1, MAX_BITS + 1) if sum(cost[part.name, bits] for part in parts) <= limit]
    if not levels:
        smallest = sum(cost[part.name, 1] for part in parts)
        raise BudgetError(
            f"the weights need at least {smallest} bytes (1 bit a weight with its scales), the budget leaves {limit}",
            hint=f"raise the budget by {smallest - limit} bytes, or take larger groups",
        )
    bits = {part.name: max(levels) for part in parts}
    left = limit - sum(cost[part.name, bits[part.name]] for part in parts)
    inner = [part for part in parts if part.role not in ("embedding", "head")]
    outer = [part for part in parts if part.role in ("embedding", "head")]
    rounds = [inner] * LEAD + [outer, inner] if outer else [inner]
    for part in (part for turn in rounds for part in turn):
        if bits[part.name] < MAX_BITS:
            step = cost[part.name, bits[part.name] + 1] - cost[part.name, bits[part.name]]
            if step <= left:
                bits[part.name] += 1
                left -= step
    return {part.name: spec_of(part, bits[part.name]) for part in parts}
