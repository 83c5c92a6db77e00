"""A budget in milliseconds: the profile says what products cost, the model itself what a token costs.

Between the two lie norms, attention, and what caches do. A line from the milliseconds of products to those of a
token is learnt from plans that are measured in form only (`tailorbird.runtime.hollow`), and the solver is asked for
so many milliseconds of products as the line says, until a measured plan takes what was asked. The method's inner
choices (bits by group, rows in classes) come later: what was fitted is measured once more, and the plan solved anew
where that takes too long, or too little.

What a plan takes is told at the pace of the profile (`tailorbird.runtime.pace`): a machine is slower at one time than a
minute later, by more than a budget may be off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tailorbird.errors import BudgetError, UsageError
from tailorbird.kernels.native import set_threads
from tailorbird.pipeline.prepare import Prepared
from tailorbird.runtime.costs import Milliseconds
from tailorbird.runtime.hollow import Hollow
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.runtime.load import load
from tailorbird.runtime.pace import TOKENS, Pace, Timed, told
from tailorbird.runtime.profile import processor
from tailorbird.runtime.speed import once
from tailorbird.transform.rotate import Rotated

# A token may take this much of what was asked; the solver aims at the middle.
LEAST, MOST = 0.96, 1.0
TRIES = 10
# What a millisecond of products may cost a token, or its inverse: beyond that it was noise.
STEEP = 3.0
# Between two plans, at least this share of the way from either: a plan further on may be the same.
INSIDE = 0.1


Solved = Callable[[float], Prepared]
"""The best plan whose products take at most so many milliseconds."""
Measure = Callable[[Prepared], Timed]
"""What a token takes by a plan."""


def products(asked: float, cost: Milliseconds, solved: Solved, fastest: Prepared, measure: Measure) -> float:
    """Milliseconds that the products of a plan may take, so that a token takes what was asked.

    Args:
        asked: milliseconds a token.
        cost: of a part's products in a format.
        solved: the solver.
        fastest: the plan with the least milliseconds of products.
        measure: what a token takes.

    Returns:
        A limit of the products; infinite where the best plan of all is fast enough.

    Raises:
        BudgetError: the fastest plan is too slow; says how fast it is.
    """
    least = total(fastest, cost) * (1 + 1e-9)
    seen: list[tuple[float, float]] = []
    limit, best = math.inf, 0.0
    for _ in range(TRIES):
        job = solved(limit)
        spent, took = total(job, cost), measure(job).milliseconds
        # Up to its limit a plan that is fast enough stays the same, a slow one down to what it spends.
        seen.append((spent if took > asked or math.isinf(limit) else limit, took))
        if took <= MOST * asked:
            if took >= LEAST * asked or math.isinf(limit):
                return limit
            best = max(best, limit)
        elif spent <= least:
            break
        limit = max(least, _next(seen, asked * (LEAST + MOST) / 2))
    if best:
        return best
    quickest = min(took for _, took in seen)
    sized = fastest.budget.nbytes is not None or fastest.budget.bits is not None
    raise BudgetError(
        f"the fastest possible with these options takes {quickest:.3g} ms a token ({fastest.nbytes} bytes), "
        f"the budget is {asked:g} ms",
        hint=f"ask for {quickest * 1.03:.3g}ms/token or more" + ", or allow more bytes" * sized,
    )


def again(asked: float, limit: float, spent: float, took: float) -> float:
    """The limit of the products after the finished model was measured.

    Args:
        asked: milliseconds a token.
        limit: of the products, until now.
        spent: milliseconds of the plan's products.
        took: milliseconds of a token by the finished model.

    Returns:
        The same limit where the finished model takes what was asked, or is the best there is.
    """
    if took <= MOST * asked and (took >= LEAST * asked or math.isinf(limit)):
        return limit
    return max(0.0, _next([(spent, took)], asked * (LEAST + MOST) / 2))


def measured_here(job: Prepared, cost: Milliseconds) -> Measure:
    """Decoding with a plan on this machine; where the profile is of another processor its products are all there is to
    go by."""
    profile = job.profile
    if profile is None or not is_here(job):
        return lambda planned: Timed(total(planned, cost))
    set_threads(profile.threads)
    pace = Pace()

    def measure(planned: Prepared) -> Timed:
        model = hollow(planned)
        return told(lambda: once(model, TOKENS), pace, profile.pace)

    return measure


def is_here(job: Prepared) -> bool:
    """This machine is the device of the job's profile."""
    return job.profile is not None and job.profile.machine == processor()


def hollow(job: Prepared) -> LanguageModel:
    """The model of a job in the formats of its plan, with nothing in them.

    Raises:
        UsageError: it is a module from memory.
    """
    if job.checkpoint is None:
        raise UsageError(f"{job.model.source} is not decoded with", hint="name the folder of a language model")
    laid_out = job.model.weights if isinstance(job.model.weights, Rotated) else job.checkpoint
    return load(Hollow(laid_out, job.plan, job.checkpoint.folder))


def total(job: Prepared, cost: Milliseconds) -> float:
    """Milliseconds of a plan's products."""
    return sum(cost(part, job.plan.specs[part.name]) for part in job.plan.parts)


def _next(seen: list[tuple[float, float]], aim: float) -> float:
    """Between two plans on either side of the aim: where a line through them meets it, or their middle. Else where a
    line through the two plans nearest to the aim does; through one plan a line of slope one."""
    below = max((point for point in seen if point[1] <= aim), key=lambda point: point[1], default=None)
    above = min((point for point in seen if point[1] > aim), key=lambda point: point[1], default=None)
    if below and above and above[0] > below[0] * (1 + 1e-6):
        # Every other time the middle: on a curve a line alone creeps along from one side.
        share = (aim - below[1]) / (above[1] - below[1]) if len(seen) % 2 else 0.5
        return below[0] + min(max(share, INSIDE), 1 - INSIDE) * (above[0] - below[0])
    near = sorted(seen, key=lambda point: abs(point[1] - aim))
    (spent, took), slope = near[0], 1.0
    other = next(((s, t) for s, t in near[1:] if abs(s - spent) > 1e-6 * spent), None)
    if other is not None:
        slope = min(max((took - other[1]) / (spent - other[0]), 1 / STEEP), STEEP)
    return spent + (aim - took) / slope
