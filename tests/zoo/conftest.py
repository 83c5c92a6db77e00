"""Small logs of events."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.tasks.sequences.dataset import Sequences


@pytest.fixture
def cycles() -> Sequences:
    """Sixty users who walk round twelve items, each from a place of its own: what follows is certain."""
    runs = [[(start + step) % 12 + 1 for step in range(8 + start % 3)] for start in range(60)]
    offsets = np.cumsum([0, *map(len, runs)])
    items = np.concatenate(runs)
    times = np.concatenate([np.arange(len(run)) + 100 * user for user, run in enumerate(runs)])
    return Sequences("cycles", offsets, items, 12, times, tuple(f"Film {i}" for i in range(1, 13)))
