"""Sharing out bits anew after the finished model showed what its parts really lose.

A method that feeds errors back loses less than rounding, and not the same everywhere. So the losses the plan was made
from are corrected part by part by what the fitted weights lose, and where another plan now promises enough, that one
is fitted too. The better of the two on text held back is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.partial import Partial
from tailorbird.formats import PackedWeight
from tailorbird.pipeline.allocation import Table, kept, solved
from tailorbird.pipeline.calibration import Windows
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
        job: undecided.
        table: what the solver is given.
        windows: text to measure on.
        partial: where the pieces go.
        run: fits a job's pieces into a folder; returns the digests of the weights.
        times: most plans to fit after the first.
        seed: of the estimates.
        progress, clock: as for `compress`.

    Returns:
        The job with the best plan, and the digests of its weights.
    """
    ready = solved(job, table)
    # What rounds without looking at data loses what was estimated; OHQ's sensitivities are no losses.
    if not times or table.ohq or not job.method.needs:
        return ready, run(ready, partial)
    tried: list[tuple[Prepared, Partial, dict[str, str]]] = []
    for number in range(times + 1):
        attempt = partial.attempt(f"attempt-{number}")
        tried.append((ready, attempt, run(ready, attempt)))
        if number == times:
            break
        with progress.stage("score", clock):
            table = corrected(table, ready, _losses(job, attempt, windows.estimate, seed))
            following = solved(job, table)
        if table.total(following.plan.specs) > (1 - WORTH) * table.total(ready.plan.specs):
            break
        ready = following
    best = 0
    if len(tried) > 1:
        with progress.stage("score", clock):
            reference = Reference.of(job.model, windows.held_back)
            found = [_kl(done, attempt, reference) for done, attempt, _ in tried]
            best = found.index(min(found))
    ready, attempt, weights = tried[best]
    partial.adopt(attempt, job.pieces)
    return ready, weights


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
        return evaluate(patched(job.model, changed), reference.windows, reference).kl or 0.0

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
