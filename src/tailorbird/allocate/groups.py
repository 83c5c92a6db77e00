"""Bits by group of columns, from what the groups lose."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def dealt(losses: Sequence[float], total: int, gain: float, least: int, most: int) -> tuple[int, ...]:
    """Steps of bits by group, `total` in all, each next one to the group that loses most.

    Args:
        losses: of every group without any bit.
        total: steps, of a bit or of half a bit.
        gain: what a step divides a loss by.
        least, most: steps a group can have.
    """
    steps = [least] * len(losses)
    queue = [(-loss, group) for group, loss in enumerate(losses)]
    heapq.heapify(queue)
    while sum(steps) < total and queue:
        loss, group = heapq.heappop(queue)
        steps[group] += 1
        if steps[group] < most:
            heapq.heappush(queue, (loss / gain, group))
    return tuple(steps)
