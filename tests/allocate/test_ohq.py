"""OHQ's integer program (card: oracles 4 and 6; 3 is the solver's own, see test_solve)."""

from __future__ import annotations

import numpy as np
import pytest

from tailorbird.allocate.ohq import normalised, objective
from tailorbird.allocate.solve import Infeasible, solve


def tables(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sensitivity = np.sort(random.exponential(size=(6, 4)), axis=1)[:, ::-1].copy()
    milliseconds = random.uniform(0.1, 1, size=(6, 4))
    return sensitivity, milliseconds, np.sort(random.integers(1, 100, size=(1, 6, 4)).astype(float), axis=2)


@pytest.mark.parametrize("seed", range(10))
def test_without_time_it_is_a_knapsack_of_sizes(seed: int) -> None:
    sensitivity, milliseconds, sizes = tables(seed)
    limit = [sizes.mean(axis=2).sum()]
    plain = solve(sensitivity, sizes, limit)
    assert (solve(objective(sensitivity, milliseconds, 1, 0), sizes, limit) == plain).all()
    assert (solve(objective(sensitivity, None), sizes, limit) == plain).all()


@pytest.mark.parametrize("seed", range(10))
def test_without_sensitivity_every_part_takes_its_cheapest(seed: int) -> None:
    sensitivity, milliseconds, sizes = tables(seed)
    choice = solve(objective(sensitivity, milliseconds, 0, 1), sizes, [np.inf])
    assert (choice == milliseconds.argmin(axis=1)).all()


def test_bits_that_cost_as_much_as_more_are_never_chosen_unless_size_binds() -> None:
    bits = np.array([3, 5, 8])
    sensitivity = np.tile(4.0**-bits, (5, 1)) * np.arange(1, 6)[:, None]
    milliseconds = np.tile([0.3, 0.8, 0.8], (5, 1))
    sizes = np.tile(bits.astype(float), (5, 1))[None]
    losses = objective(sensitivity, milliseconds)
    assert 1 not in solve(losses, sizes, [np.inf])
    assert 1 not in solve(losses, np.concatenate([sizes, milliseconds[None]]), [np.inf, 3.0])
    assert 1 in solve(objective(sensitivity, milliseconds, 1, 0), sizes, [25.0])
    with pytest.raises(Infeasible):
        solve(losses, sizes, [14.0])


def test_normalised_is_zero_to_one() -> None:
    found = normalised(np.array([[2.0, 4.0], [3.0, np.inf]]))
    assert found.tolist() == [[0.0, 1.0], [0.5, np.inf]]
    assert normalised(np.ones((2, 2))).tolist() == [[0.0, 0.0], [0.0, 0.0]]
