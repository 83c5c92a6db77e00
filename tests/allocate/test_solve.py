"""The solver: as good as trying everything, within every limit, and clear where there is no answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tailorbird.allocate.solve import Infeasible, curve, solve, total


def table(seed: int, sites: int = 5, options: int = 3, kinds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    losses = np.sort(random.exponential(size=(sites, options)), axis=1)[:, ::-1].copy()
    costs = np.sort(random.integers(1, 1000, size=(kinds, sites, options)).astype(float), axis=2)
    random.shuffle(costs[-1].T)  # the last kind of cost need not rise
    return losses, costs


def brute(losses: np.ndarray, costs: np.ndarray, limits: np.ndarray) -> float:
    every = itertools.product(range(losses.shape[1]), repeat=len(losses))
    fitting = [np.array(choice) for choice in every if (total(costs, np.array(choice)) <= limits).all()]
    return min((total(losses[None], choice)[0] for choice in fitting), default=np.inf)


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("seed", range(50))
def test_equals_brute_force(seed: int, kinds: int) -> None:
    losses, costs = table(seed, kinds=kinds)
    low, high = costs.min(axis=2).sum(axis=1), costs.max(axis=2).sum(axis=1)
    limits = low + np.random.default_rng(seed).uniform(size=kinds) * (high - low)
    best = brute(losses, costs, limits)
    if np.isinf(best):
        with pytest.raises(Infeasible):
            solve(losses, costs, limits)
        return
    choice = solve(losses, costs, limits)
    assert (total(costs, choice) <= limits).all()
    assert total(losses[None], choice)[0] == pytest.approx(best, rel=1e-4)


def test_no_limit_takes_the_least_loss() -> None:
    losses, costs = table(1, kinds=2)
    assert (solve(losses, costs, [np.inf, np.inf]) == losses.argmin(axis=1)).all()
    assert (solve(losses, costs, [1e9, np.inf]) == losses.argmin(axis=1)).all()


def test_the_error_names_the_smallest_of_every_kind() -> None:
    losses, costs = table(2, kinds=2)
    least = costs.min(axis=2).sum(axis=1)
    with pytest.raises(Infeasible) as caught:
        solve(losses, costs, [least[0] - 1, np.inf])
    assert caught.value.least == pytest.approx(tuple(least))
    assert f"{least[0]:.0f}" in caught.value.message and f"{least[0]:.0f}" in caught.value.hint
    assert total(costs, solve(losses, costs, [least[0], np.inf]))[0] == least[0]


def test_limits_that_exclude_each_other_are_refused() -> None:
    losses = np.array([[1.0, 0.0]])
    costs = np.array([[[1.0, 2.0]], [[2.0, 1.0]]])
    with pytest.raises(Infeasible, match="not all at once"):
        solve(losses, costs, [1.5, 1.5])
    with pytest.raises(Infeasible) as caught:
        solve(losses, costs, [1.5, 1.5], ["bytes", "milliseconds"])
    assert "1.5 bytes and 1.5 milliseconds" in caught.value.message
    assert caught.value.hint == "keep the others and allow 2 bytes, or 2 milliseconds"
    assert solve(losses, costs, [2, 1.5]).tolist() == [1] and solve(losses, costs, [1.5, 2]).tolist() == [0]


def test_the_error_says_which_limit_is_short_and_what_would_do() -> None:
    losses, costs = table(2, kinds=2)
    least = costs.min(axis=2).sum(axis=1)
    costs[1] /= 3000
    with pytest.raises(Infeasible) as caught:
        solve(losses, costs, [np.inf, 0.01], ["bytes", "milliseconds"])
    assert caught.value.message.startswith("the limit is 0.01 milliseconds, the smallest possible 0.")
    enough = float(caught.value.hint.removeprefix("allow ").removesuffix(" milliseconds"))
    assert enough == pytest.approx(least[1] / 3000, rel=1e-6)
    solve(losses, costs, [np.inf, enough])


def test_missing_options_are_never_taken() -> None:
    losses = np.array([[3.0, np.inf, 1.0], [3.0, 2.0, np.inf]])
    costs = np.array([[[1.0, 0.0, 5.0], [1.0, 2.0, 0.0]]])
    assert solve(losses, costs, [3.0]).tolist() == [0, 1]
    assert solve(losses, costs, [100.0]).tolist() == [2, 1]


def test_a_slower_option_that_is_no_better_is_never_taken() -> None:
    """Five bits that cost as much as eight are of no use unless something else is short."""
    losses = np.array([[4.0, 1.0, 0.1]] * 4)
    milliseconds = np.array([[[4.0, 8.0, 8.0]] * 4])
    for limit in range(16, 33):
        assert 1 not in solve(losses, milliseconds, [float(limit)])
    sizes = np.array([[[4.0, 5.0, 8.0]] * 4])
    assert 1 in solve(losses, np.concatenate([milliseconds, sizes]), [32.0, 20.0])


def test_large_numbers_never_exceed_the_limit() -> None:
    """Bytes of a large model: HiGHS' own tolerance is many of them."""
    random = np.random.default_rng(0)
    numel = random.integers(10**5, 10**8, size=120)
    losses = numel[:, None] ** 0.5 * 4.0 ** -np.arange(1, 9) * random.uniform(0.1, 10, size=(120, 1))
    costs = (numel[:, None] * np.arange(1, 9) / 8)[None]
    for bits in (1.01, 2.3, 4.7, 7.9):
        limit = bits * numel.sum() / 8
        used = total(costs, solve(losses, costs, [limit]))[0]
        assert 0.999 * limit <= used <= limit


def test_the_curve_is_convex_and_each_point_is_best_at_its_cost() -> None:
    losses, costs = table(3, sites=6)
    points = curve(losses, costs[0])
    slopes = [(a.loss - b.loss) / (b.cost - a.cost) for a, b in itertools.pairwise(points)]
    assert all(one >= two - 1e-12 for one, two in itertools.pairwise(slopes))
    assert (points[-1].choice == losses.argmin(axis=1)).all()
    for point in points:
        assert point.loss == pytest.approx(brute(losses, costs, np.array([point.cost])))


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(8):
        losses, costs = table(seed, sites=60, options=8)
        solve(losses, costs, [costs.mean(axis=2).sum()])
    assert capfd.readouterr() == ("", "")
