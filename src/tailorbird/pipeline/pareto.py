"""The whole curve of a model: what every size, from the smallest to the largest, is expected to lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailorbird.pipeline.allocation import Table, solved
from tailorbird.pipeline.estimate import smallest
from tailorbird.pipeline.prepare import Prepared
from tailorbird.plan import Plan
from tailorbird.report.plots import scatter
from tailorbird.score.losses import measured
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.language import Reference


@dataclass(frozen=True)
class Candidate:
    """A plan on the curve.

    Attributes:
        nbytes: of all files, at most.
        bits: a weight.
        predicted: KL in nats that the solver expects.
        plan: the plan.
        measured: KL of the model with its parts rounded so; None where nobody asked.
    """

    nbytes: int
    bits: float
    predicted: float
    plan: Plan
    measured: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the plan."""
        return {"bytes": self.nbytes, "bits": self.bits, "predicted": self.predicted, "measured": self.measured}


def pareto(job: Prepared, table: Table, points: int) -> list[Candidate]:
    """The best plans of so many sizes, evenly spread on a logarithmic scale, by rising size; the budget's other
    limits hold."""
    low = smallest(job).nbytes
    high = job.planned({part.name: job.spec(part, job.levels) for part in job.model.parts}).nbytes
    found: dict[int, Candidate] = {}
    for step in range(points):
        limit = round(low * (high / low) ** (step / max(1, points - 1)))
        budget = replace(job.budget, bits=None, nbytes=limit + job.cached)
        ready = solved(replace(job, budget=budget), replace(table, worse=False))
        found[ready.nbytes] = Candidate(ready.nbytes, ready.bits, table.total(ready.plan.specs), ready.plan)
    return [found[size] for size in sorted(found)]


def probed(rounding: Rounding, found: Sequence[Candidate], reference: Reference, count: int) -> list[Candidate]:
    """The curve with `count` of its points measured, evenly spread and both ends among them."""
    last = len(found) - 1
    chosen = {round(last * step / max(1, count - 1)) for step in range(min(count, len(found)))}
    return [
        replace(one, measured=measured(reference, rounding, one.plan.specs)) if index in chosen else one
        for index, one in enumerate(found)
    ]


def drawn(found: Sequence[Candidate], model: str, method: str) -> str:
    """The curve as an SVG picture."""
    rows = [
        {"bytes": one.nbytes, "kl": one.predicted, "label": f"{one.bits:.2f}", "series": "predicted"} for one in found
    ]
    rows += [
        {"bytes": one.nbytes, "kl": one.measured, "label": f"{one.bits:.2f}", "series": "measured (rounded)"}
        for one in found
        if one.measured is not None
    ]
    return scatter(
        rows, x="bytes", y="kl", label="label", series="series", title=f"{model}, {method}: what every size loses",
        x_title="bytes of all files", y_title="KL from the original, nats (labels: bits a weight)",
        log_y=True, x_unit="bytes",
    )  # fmt: skip
