"""Sharing out bits by what they are worth: losses estimated, checked against the model itself, and solved for.

Everything found on the way is kept in the job's work folder, so that a resumed job decides the same in a moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from tailorbird.allocate.ohq import objective
from tailorbird.allocate.sites import Sites, interpolated
from tailorbird.allocate.solve import Array, solve
from tailorbird.allocate.uniform import outside
from tailorbird.anatomy import Part
from tailorbird.files import make_folder, read_json, write_json
from tailorbird.formats import Spec
from tailorbird.kernels import dense
from tailorbird.measure.statistics import Stats
from tailorbird.pipeline.calibration import Windows
from tailorbird.pipeline.latency import measured_here, products
from tailorbird.pipeline.pieces import importance
from tailorbird.pipeline.prepare import Prepared, size, within
from tailorbird.pipeline.progress import Progress, silent
from tailorbird.runtime.costs import Milliseconds
from tailorbird.score.losses import Formats, Losses, factors, formats, losses, measured, sensitivities
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.language import Reference, hidden

T = TypeVar("T")
# Milliseconds that no model takes: JSON has no infinity.
UNLIMITED = 1e12
# Tokens that masked models are compared on.
MASKED = 64
# Windows in which words are foretold, to learn what the rows of a head are worth.
OUTPUTS = 4
# What the solver's limits are counted in.
KINDS = ("bytes of packed weights", "milliseconds of products")


@dataclass(frozen=True)
class Table:
    """What the solver is given.

    Attributes:
        sites: parts that change together, and their formats.
        losses: by part and bits, as estimated.
        formats: those they are of.
        roles: by role, what its losses are multiplied by, as measured on probes of rounded parts.
        parts: by part, what its losses are multiplied by, as the finished model showed.
        milliseconds: of a part's products in a format, for one token; None where no device is named.
        products: milliseconds that all products together may take.
        worse: rounded to the solver's plan the model lost more than rounded to the uniform one, which then stays.
        ohq: the losses are OHQ's sensitivities: they are normalised, and time is weighed with them.
        worth: of every row of the parts whose rows have bits by it, by part name.
    """

    sites: Sites
    losses: Losses
    formats: Formats
    roles: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    milliseconds: Milliseconds | None = None
    products: float = math.inf
    worse: bool = False
    ohq: bool = False
    worth: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def loss(self, part: Part, spec: Spec) -> float:
        """What a part loses in a format."""
        factor = self.roles.get(part.role, 1.0) * self.parts.get(part.name, 1.0)
        return factor * self.estimated(part, spec)

    def estimated(self, part: Part, spec: Spec) -> float:
        """The same before anything was measured."""
        return interpolated(self.losses[part.name], spec, part.name in self.worth)

    def total(self, specs: Mapping[str, Spec]) -> float:
        """What a plan is expected to lose."""
        return sum(self.loss(part, specs[part.name]) for unit in self.sites.units for part in unit)

    @property
    def by_option(self) -> Array:
        """What the solver minimises, (sites, options)."""
        losses = self.sites.table(self.loss)
        return objective(losses, self.times) if self.ohq else losses

    @property
    def times(self) -> Array | None:
        """Milliseconds of products (sites, options), where anybody asked."""
        return None if self.milliseconds is None else self.sites.table(self.milliseconds)

    @property
    def bytes(self) -> Array:
        """Bytes (sites, options)."""
        return self.sites.table(size)


def solved(job: Prepared, table: Table) -> Prepared:
    """The job with the plan that loses least within its budget.

    Raises:
        BudgetError: there is none.
    """
    if table.worse and table.milliseconds is None:
        return job
    losses, costs, times = table.by_option, table.bytes[None], table.times
    if times is not None:
        costs = np.concatenate([costs, times[None]])

    def choose(room: int) -> Mapping[str, Spec]:
        best = solve(losses, costs, [room, table.products][: len(costs)], KINDS[: len(costs)])
        return table.sites.specs(best)

    return within(job, choose)


@dense.fast()
def measured_table(
    job: Prepared,
    windows: Windows,
    folder: Path,
    seed: int = 0,
    progress: Progress = silent,
    clock: dict[str, float] | None = None,
) -> Table:
    """Losses of a job's parts, estimated and corrected by probes.

    Args:
        job: laid out, with any plan.
        windows: text to estimate on, and text held back.
        folder: where what was found is kept.
        seed: of the estimate.
        progress: told about the stage.
        clock: seconds by stage.
    """
    make_folder(folder)
    sites = Sites.of(job.model.parts, job.spec, job.rules, job.levels)
    options, worth = formats(job.model.parts, job.spec), worth_of(job, windows.others)
    rounding = Rounding(job.method, worth)

    def estimate() -> Losses:
        if job.allocate == "ohq":
            return sensitivities(job.model, rounding, options, windows.estimate[:1, :MASKED], seed)
        return losses(job.model, rounding, options, windows.estimate, folder / "states", seed, _silent)

    with progress.stage("score", {} if clock is None else clock):
        found = kept(folder / f"{job.allocate}.json", estimate)
        by_bits = {name: {int(bits): loss for bits, loss in by.items()} for name, by in found.items()}
        table = Table(sites, by_bits, options, ohq=job.allocate == "ohq", worth=worth)
        if not table.ohq:
            table = _probed(job, table, windows, folder / "probes.json")
        if job.profile is None:
            return table
        table = replace(table, milliseconds=Milliseconds(job.profile))
        return table if job.budget.milliseconds is None else _timed(job, table, folder / "products.json")


def worth_of(job: Prepared, windows: Tensor) -> dict[str, Tensor]:
    """What the rows of embedding and head are worth, float32 (rows,) by part name: as inputs in all of some windows, as
    outputs in the first of them. None where all rows will have the same bits."""
    if not job.by_rows:
        return {}
    seen = Stats(inputs=hidden(job.model, windows[:OUTPUTS]).flatten(0, 1))
    found = {}
    for part in filter(outside, job.model.parts):
        worth = importance(job, part, job.model.weight(part), seen, windows)
        job.model.drop(part.name)
        if worth is not None:
            found[part.name] = worth
    return found


def _timed(job: Prepared, table: Table, path: Path) -> Table:
    """The table with the milliseconds of products that a token's budget leaves."""
    assert table.milliseconds is not None and job.budget.milliseconds is not None
    asked, cost, sizes = float(job.budget.milliseconds), table.milliseconds, table.bytes[None]
    times = table.sites.table(cost)
    fastest = within(job, lambda room: table.sites.specs(solve(times, sizes, [room])))

    def find() -> dict[str, Any]:
        measure = measured_here(job, cost)
        found = products(asked, cost, lambda limit: solved(job, replace(table, products=limit)), fastest, measure)
        return {"products": min(found, UNLIMITED)}

    return replace(table, products=kept(path, find)["products"])


def _probed(job: Prepared, table: Table, windows: Windows, path: Path) -> Table:
    """The table with factors by role, probed at the job's uniform plan: factors depend on how much is lost, and there
    no part loses so much that nothing else matters. The solver's plan is then compared as a whole with it."""

    def probe() -> dict[str, Any]:
        reference, specs = Reference.of(job.model, windows.probed), job.plan.specs
        estimated = {part.name: table.loss(part, specs[part.name]) for part in job.model.parts}
        rounding = Rounding(job.method, table.worth)
        roles = factors(reference, rounding, job.model.parts, specs, estimated)
        plans = (job, solved(job, replace(table, roles=roles)))
        reference = Reference.of(job.model, windows.held_back)
        return {"roles": roles, "kl": [measured(reference, rounding, plan.plan.specs) for plan in plans]}

    found = kept(path, probe)
    uniform, best = found["kl"]
    return replace(table, roles=found["roles"], worse=best > uniform)


def kept(path: Path, make: Callable[[], T]) -> T:
    """The JSON of a file, made if it is not there."""
    if not path.exists():
        write_json(path, make())
    found: T = read_json(path)
    return found


def _silent(done: int, total: int) -> None:
    """Nobody is told."""
