"""Settings for the whole suite: no network, no surprises from the terminal, the same examples every time."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tailorbird.tasks.sequences.dataset import Sequences

# Before any test imports a library that reads them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    NO_COLOR="1",
    TERM="dumb",
    COLUMNS="120",
    # Tensors are tiny here: a second thread only waits, and on a busy machine it waits long.
    OMP_NUM_THREADS="1",
)

# Kernels for a GPU are interpreted; with TRITON_INTERPRET=0 tests/kernels/test_triton.py runs on the GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell ignores Ctrl-C on behalf of what it starts in the background, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tailorbird", deadline=None, derandomize=True)
settings.load_profile("tailorbird")


@pytest.fixture
def cycles() -> Sequences:
    """Sixty users who walk round twelve items, each from a place of its own: what follows is certain."""
    import numpy as np

    from tailorbird.tasks.sequences.dataset import Sequences

    runs = [[(start + step) % 12 + 1 for step in range(8 + start % 3)] for start in range(60)]
    offsets = np.cumsum([0, *map(len, runs)])
    items = np.concatenate(runs)
    times = np.concatenate([np.arange(len(run)) + 100 * user for user, run in enumerate(runs)])
    return Sequences("cycles", offsets, items, 12, times, tuple(f"Film {i}" for i in range(1, 13)))
