"""The pace of a machine, on clocks that are plain arithmetic. No figure of a real one is looked at."""

from __future__ import annotations

from itertools import count

import pytest

from tailorbird.kernels.native import extension
from tailorbird.runtime.pace import COLS, MATRICES, NBYTES, ROWS, Pace, told

# Beyond the caches of most processors.
COLD = 2**27


def test_a_token_is_told_at_the_pace_of_the_profile() -> None:
    """On a machine that is half as fast now and then, and else a quarter slower than it was profiled."""
    clock = count()

    def slow() -> float:
        return 2.5 if next(clock) // 20 % 5 == 4 else 1.25

    found = told(lambda: 6.0 * slow(), lambda: 7.0 * slow(), 7.0)
    assert found.milliseconds == pytest.approx(6.0) and found.slower == pytest.approx(1.25)


def test_the_first_turn_warms_up() -> None:
    took, now = iter([900.0, 4.0, 6.0, 5.0]), iter([900.0, 2.0, 2.0, 2.0])
    found = told(lambda: next(took), lambda: next(now), 1.0, turns=3)
    assert (found.milliseconds, found.slower) == (2.5, 2.0)


@pytest.mark.skipif(extension() is None, reason="there are no native kernels")
def test_its_products_come_from_memory() -> None:
    pace = Pace()
    assert len({id(matrix) for matrix in pace.matrices}) == MATRICES
    assert all(matrix.shape == (ROWS, COLS) for matrix in pace.matrices)
    assert sum(matrix.nbytes for matrix in pace.matrices) > COLD
    assert sum(matrix.nbytes for matrix in pace.matrices) <= NBYTES
    assert pace() > 0
