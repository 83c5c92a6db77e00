"""Sharing out bits anew after the finished model showed what its parts really lose.

A method that feeds errors back loses less than rounding, and not the same everywhere. So the losses the plan was made
from are corrected part by part by what the fitted weights lose, and where another plan now promises enough, that one
is fitted too. The better of the two on text held back is kept. Weights that a method scaled before it fitted them can't
be compared with the model's: nothing is corrected there.

What a token takes is measured anew too: only what was fitted has bits by group and rows in classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.partial import TIMED, Partial
from tailorbird.errors import BudgetError
from tailorbird.formats import PackedWeight
from tailorbird.pipeline.allocation import Table, kept, solved
from tailorbird.pipeline.calibration import Windows
from tailorbird.pipeline.latency import again, measured_here, total
from tailorbird.pipeline.prepare import Prepared
from tailorbird.pipeline.progress import Progress
from tailorbird.score.losses import realised
from tailorbird.score.patched import patched
from tailorbird.tasks.language import Reference, evaluate

Run = Callable[[Prepared, Partial], dict[str, str]]
# A new plan must promise so much less loss to be fitted.
WORTH = 0.03
# A part's loss is corrected by this at most, either way.
REACH = 4.0


@dataclass(frozen=True)
class Attempt:
    """A plan that was fitted.

    Attributes:
        job: with the plan.
        partial: where its pieces are.
        weights: their digests.
        milliseconds: of one decoded token by the formats that were fitted; None where nobody asked.
    """

    job: Prepared
    partial: Partial
    weights: dict[str, str]
    milliseconds: float | None

    @property
    def in_time(self) -> bool:
        """It takes what the budget allows."""
        asked = self.job.budget.milliseconds
        return self.milliseconds is None or asked is None or self.milliseconds <= asked


def refined(
    job: Prepared,
    table: Table,
    windows: Windows,
    partial: Partial,
    run: Run,
    times: int,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
) -> tuple[Prepared, dict[str, str]]:
    """Fit the solver's plan, and better ones as long as there are any.

    Args:
        job: undecided, its model as the method turned it.
        table: what the solver is given.
        windows: text to measure on.
        partial: where the pieces go.
        run: fits a job's pieces into a folder; returns the digests of the weights.
        times: most plans to fit after the first for the sake of loss; one more is fitted where the first takes another
            time than was asked.
        seed: of the estimates.
        progress, clock: as for `compress`.

    Returns:
        The job with the best plan, and the digests of its weights.
    """
    # What rounds without looking at data loses what was estimated; OHQ's sensitivities are no losses; weights that were
    # scaled can't be compared with the model's.
    weighed = times if job.method.needs and not table.ohq and not job.method.transforms else 0
    timed = int(job.budget.milliseconds is not None)
    ready = solved(job, table)
    if not weighed and not timed:
        return ready, run(ready, partial)
    tried: list[Attempt] = []

    def fit(ready: Prepared) -> None:
        folder = partial.attempt(f"attempt-{len(tried)}")
        weights = run(ready, folder)
        with progress.stage("score", clock):
            tried.append(Attempt(ready, folder, weights, _took(job, folder, table) if timed else None))

    fit(ready)
    for step in ("time",) * timed + ("loss",) * weighed:
        with progress.stage("score", clock):
            if step == "time":
                table, ready = _timed_again(job, table, tried[-1])
            else:
                table = corrected(table, tried[-1].job, _losses(job, tried[-1].partial, windows.estimate, seed))
                ready = _worth_it(table, tried[-1].job, solved(job, table))
        if ready.plan.specs != tried[-1].job.plan.specs:
            fit(ready)
    with progress.stage("score", clock):
        best = _best(job, tried, windows.held_back)
    partial.adopt(best.partial, job.pieces)
    return best.job, best.weights


def _took(job: Prepared, attempt: Partial, table: Table) -> float:
    """Milliseconds of a token by the formats that were fitted; kept beside them."""
    cost = table.milliseconds
    assert cost is not None
    specs = {name: spec for piece in job.pieces for name, spec in attempt.specs_of(piece).items()}
    found = kept(attempt.facts / TIMED, lambda: asdict(measured_here(job, cost)(job.planned(specs))))
    return float(found["milliseconds"])


def _timed_again(job: Prepared, table: Table, last: Attempt) -> tuple[Table, Prepared]:
    """The table with the limit of products that the finished model shows to be right, and its plan."""
    assert table.milliseconds is not None and last.milliseconds is not None and job.budget.milliseconds is not None
    spent = total(last.job, table.milliseconds)
    limit = again(float(job.budget.milliseconds), table.products, spent, last.milliseconds)
    table = replace(table, products=limit)
    try:
        return table, solved(job, table)
    except BudgetError:
        # Nothing is faster: the caller is told what the artifact takes.
        return table, last.job


def _worth_it(table: Table, before: Prepared, after: Prepared) -> Prepared:
    """The new plan, where it promises enough."""
    return before if table.total(after.plan.specs) > (1 - WORTH) * table.total(before.plan.specs) else after


def _best(job: Prepared, tried: Sequence[Attempt], windows: Tensor) -> Attempt:
    """Of the attempts that are in time, the one that loses least on text held back; else the fastest."""
    in_time = [attempt for attempt in tried if attempt.in_time]
    if not in_time:
        return min(tried, key=lambda attempt: attempt.milliseconds or 0.0)
    if len(in_time) == 1:
        return in_time[0]
    reference = Reference.of(job.model, windows)
    return min(in_time, key=lambda attempt: _kl(job, attempt.partial, reference))


def corrected(table: Table, job: Prepared, found: dict[str, float]) -> Table:
    """The table with each part's losses in proportion to what it was found to lose in its format."""
    parts = {}
    for part in job.model.parts:
        guess = table.estimated(part, job.plan.specs[part.name])
        parts[part.name] = min(max(found[part.name] / guess, 1 / REACH), REACH) if guess > 0 else 1.0
    return replace(table, parts=parts)


def _losses(job: Prepared, attempt: Partial, windows: Tensor, seed: int) -> dict[str, float]:
    """What the fitted parts lose, estimated like the table; kept beside them."""
    folder = attempt.facts / "score"
    return kept(folder.with_suffix(".json"), lambda: realised(job.model, _planes(job, attempt), windows, folder, seed))


def _kl(job: Prepared, attempt: Partial, reference: Reference) -> float:
    """KL of the fitted model on text held back; kept beside it."""
    planes = _planes(job, attempt)

    def measure() -> float:
        changed = {part.name: _rows(planes, part) for part in job.model.parts}
        # A method may have changed what stands beside its weights, such as gains of norms.
        beside = {name: tensor for piece in job.pieces for name, tensor in attempt.kept(piece).items()}
        return evaluate(patched(job.model, changed, beside), reference.windows, reference).kl or 0.0

    return float(kept(attempt.facts / "kl.json", measure))


def _rows(planes: Callable[[Part], PackedWeight], part: Part) -> Callable[[int, int], Tensor]:
    return lambda start, stop: planes(part).dequantize(start, stop)


def _planes(job: Prepared, attempt: Partial) -> Callable[[Part], PackedWeight]:
    """Packed weights by part; one piece at a time is in memory."""
    piece_of = {part.name: piece for piece in job.pieces for part in piece.parts}

    @lru_cache(maxsize=1)
    def read(file: str) -> dict[str, PackedWeight]:
        return attempt.planes(next(piece for piece in job.pieces if piece.file == file))

    def planes(part: Part) -> PackedWeight:
        piece: Segment = piece_of[part.name]
        return read(piece.file)[part.name]

    return planes
