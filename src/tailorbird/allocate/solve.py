"""One option for every site at the least loss within limits: the multiple-choice knapsack, and its whole curve.

Plain data in, plain data out. Losses add up over sites: sum over sites s of ``losses[s, x_s]`` is minimised subject
to sum of ``costs[k, s, x_s] <= limits[k]`` for every kind of cost k, by `scipy.optimize.milp` (HiGHS).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse

from tailorbird.errors import BudgetError

Array = NDArray[np.float64]
Choice = NDArray[np.int64]
# What the answer may lose to the best one, of the loss.
GAP = 1e-4
# Nodes of the search tree, not seconds: the same table gives the same answer on a busy machine.
NODES = 2_000
# HiGHS keeps limits to about a millionth; an answer above one is sought again under a limit that is lower by as much.
TRIES = 6


class Infeasible(BudgetError):
    """No choice keeps all limits.

    Attributes:
        least: the smallest possible total of every kind of cost: each for itself where one of them is above its limit,
            else with the other limits kept.
    """

    def __init__(self, costs: Array, limits: Array, kinds: Sequence[str]) -> None:
        alone = costs.min(axis=2).sum(axis=1)
        short = [k for k in range(len(limits)) if alone[k] > limits[k]]
        least = alone if short else np.array([_least(costs, limits, k) for k in range(len(limits))])
        bounded = short or [k for k in range(len(limits)) if np.isfinite(limits[k])]
        needs = [(_said(least[k]), f"{_said(limits[k])} {kinds[k]}") for k in bounded]
        if short:
            message = "; ".join(f"the limit is {limit}, the smallest possible {need}" for need, limit in needs)
            hint = "allow " + " and ".join(f"{_said(least[k])} {kinds[k]}" for k in bounded)
        else:
            message = "each limit can be kept, but not all at once: " + " and ".join(limit for _, limit in needs)
            hint = "keep the others and allow " + ", or ".join(f"{_said(least[k])} {kinds[k]}" for k in bounded)
        super().__init__(message, hint=hint)
        self.least = tuple(map(float, least))


def _least(costs: Array, limits: Array, kind: int) -> float:
    """The smallest total of a kind with the other limits kept."""
    others = np.where(np.arange(len(limits)) == kind, np.inf, limits)
    return float(total(costs, solve(costs[kind], costs, others))[kind])


def _said(value: float) -> str:
    """A cost in a message, rounded up in the seventh figure, so that it can be kept."""
    if float(value).is_integer():
        return f"{value:.0f}"
    step = 10.0 ** (math.floor(math.log10(value)) - 6)
    return f"{math.ceil(value / step) * step:.7g}"


@dataclass(frozen=True)
class Point:
    """One option for every site, and what they add up to."""

    choice: Choice
    cost: float
    loss: float


def solve(losses: Array, costs: Array, limits: ArrayLike, kinds: Sequence[str] = ()) -> Choice:
    """The options of least total loss within all limits.

    Args:
        losses: (sites, options); infinite where a site has fewer options.
        costs: (kinds, sites, options), not negative.
        limits: (kinds,); infinite for none.
        kinds: what each is counted in, for messages.

    Returns:
        The option of every site, int64 (sites,); its loss is within `GAP` of the best.

    Raises:
        Infeasible: no choice keeps all limits.
    """
    wanted = np.asarray(limits, dtype=float)
    kinds = kinds or [f"of cost {k}" for k in range(len(wanted))]
    gains = losses - losses.min(axis=1, keepdims=True)
    costs = np.where(np.isfinite(losses), costs, np.inf)
    least = costs.min(axis=2).sum(axis=1)
    if (least > wanted).any():
        raise Infeasible(costs, wanted, kinds)
    bounded = np.isfinite(wanted)
    best: Choice = gains.argmin(axis=1)
    if not bounded.any() or (total(costs, best) <= wanted).all():
        return best
    every, costs, bound = costs, costs[bounded], wanted[bounded]
    start = _start(gains, costs, bound)
    for _ in range(TRIES):
        found = _milp(gains, costs, bound, start)
        if found is None:
            break
        over = total(costs, found) - wanted[bounded]
        if (over <= 0).all():
            return found if start is None or _sum(gains, found) <= _sum(gains, start) else start
        bound = np.where(over > 0, bound - 2 * over, bound)
    if start is None:
        raise Infeasible(every, wanted, kinds)
    return start


def curve(losses: Array, costs: Array) -> list[Point]:
    """Every plan on the lower convex hull of total loss over total cost, the cheapest first.

    One walk along the hulls of all sites, the steepest step first; each point is the best there is at its own cost.

    Args:
        losses: (sites, options); infinite where a site has fewer options.
        costs: (sites, options), of one kind.
    """
    hulls = [_hull(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
    steps = [
        ((losses[site, low] - losses[site, high]) / (costs[site, high] - costs[site, low]), site, high)
        for site, hull in enumerate(hulls)
        for low, high in itertools.pairwise(hull)
    ]
    choice = np.array([hull[0] for hull in hulls], dtype=np.int64)
    points = [_point(losses, costs, choice)]
    for _, site, option in sorted(steps, key=lambda step: -step[0]):
        choice = choice.copy()
        choice[site] = option
        points.append(_point(losses, costs, choice))
    return points


def total(costs: Array, choice: Choice) -> Array:
    """What a choice costs, of every kind: float (kinds,)."""
    return np.asarray(costs[:, np.arange(len(choice)), choice].sum(axis=1))


def _milp(losses: Array, costs: Array, bound: Array, start: Choice | None) -> Choice | None:
    """HiGHS over the options that can be part of an answer better than `start`; None where there is none."""
    most = np.inf if start is None else _sum(losses, start)
    open_ = _undominated(losses, costs) & (losses <= most)
    if not open_.any(axis=1).all():
        return None
    site, option = np.nonzero(open_)
    unit = most if np.isfinite(most) and most > 0 else max(float(losses[open_].max()), 1e-300)
    scale = costs[:, site, option].max(axis=1).clip(min=1e-300)
    rows = sparse.csr_matrix((np.ones(len(site)), (site, np.arange(len(site)))), shape=(len(losses), len(site)))
    limits = optimize.LinearConstraint(
        sparse.csr_matrix(costs[:, site, option] / scale[:, None]), -np.inf, bound / scale
    )
    with _quiet():
        answer = optimize.milp(
            losses[site, option] / unit,
            integrality=np.ones(len(site)),
            bounds=optimize.Bounds(0, 1),
            constraints=[optimize.LinearConstraint(rows, 1, 1), limits],
            options={"mip_rel_gap": GAP, "node_limit": NODES},
        )
    if answer.x is None:
        return None
    share = np.zeros(losses.shape)
    share[site, option] = answer.x
    found: Choice = share.argmax(axis=1)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS prints a line of its own making now and then, past Python, where a command prints one JSON document."""
    sys.stdout.flush()
    try:
        flush, kept = ctypes.CDLL(None).fflush, os.dup(1)
    except (OSError, TypeError, AttributeError):  # no such library, or no standard output
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)


def _start(losses: Array, costs: Array, bound: Array) -> Choice | None:
    """A good choice that keeps the limits, from the curve over their weighted sum; None if no point of it does."""
    together = (costs / bound.clip(min=1e-300)[:, None, None]).sum(axis=0)
    fitting = [point.choice for point in curve(losses, together) if (total(costs, point.choice) <= bound).all()]
    return min(fitting, key=lambda choice: _sum(losses, choice), default=None)


def _undominated(losses: Array, costs: Array) -> NDArray[np.bool_]:
    """Options that no other of their site is as good as in loss and every cost; of equal ones the first."""
    values = np.concatenate([losses[None], costs])
    as_good = (values[:, :, :, None] <= values[:, :, None, :]).all(axis=0)
    equal = (values[:, :, :, None] == values[:, :, None, :]).all(axis=0)
    first = np.arange(losses.shape[1])
    beaten = as_good & (~equal | (first[:, None] < first[None, :]))
    return np.asarray(np.isfinite(losses) & ~beaten.any(axis=1))


def _hull(loss: Array, cost: Array) -> list[int]:
    """Options on the lower convex hull, by rising cost and falling loss."""
    hull: list[int] = []
    for option in sorted(np.flatnonzero(np.isfinite(loss)).tolist(), key=lambda o: (cost[o], loss[o], o)):
        if hull and loss[option] >= loss[hull[-1]]:
            continue
        while len(hull) > 1 and _flatter(loss, cost, hull[-2], hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _flatter(loss: Array, cost: Array, a: int, b: int, c: int) -> bool:
    """The step a-b gains less for its cost than b-c; of points on a line all stay."""
    return bool((loss[a] - loss[b]) * (cost[c] - cost[b]) < (1 - 1e-9) * (loss[b] - loss[c]) * (cost[b] - cost[a]))


def _point(losses: Array, costs: Array, choice: Choice) -> Point:
    return Point(choice, float(total(costs[None], choice)[0]), _sum(losses, choice))


def _sum(losses: Array, choice: Choice) -> float:
    return float(total(losses[None], choice)[0])
