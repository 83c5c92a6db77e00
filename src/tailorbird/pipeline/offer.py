"""Solving an artifact's plan anew for a target, to say what that would cost beside an export that changes weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from tailorbird.artifact.offer import Offer, budgets, command, local_original, unsolved
from tailorbird.artifact.reader import Artifact
from tailorbird.errors import BudgetError, TailorbirdError
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.pipeline.prepare import Prepared, prepare

# More than any plan takes.
_AMPLE = "16bits"
_SPOTS, _SPOT_ROWS = 8, 16


def solved(
    target: str, artifact: Artifact, source: Artifact, original: str | Path | None = None, lost: float = 0.0
) -> Offer:
    """The plan solved anew under a target's rules, with sizes and losses; the command alone where the original can't be
    read.

    Args:
        target: name of the target.
        artifact: the artifact as it is.
        source: the same in the target's formats.
        original: the model it was made from; by default what its recipe names, if that is on this machine.
        lost: relative squared error that the target adds to `source`.
    """
    offer, name = unsolved(target, artifact, source), original or local_original(artifact)
    if name is None:
        return offer
    try:
        job, raised = _solved(name, artifact, target)
    except (TailorbirdError, OSError):
        return offer
    if raised:
        offer = replace(offer, command=command(target, artifact, [raised]), raised=raised)
    errors = _errors(job, source, lost) if list(job.model.parts) == list(artifact.plan.parts) else None
    return replace(offer, nbytes=(source.plan.code_bytes, job.plan.code_bytes), errors=errors)


def _solved(name: str | Path, artifact: Artifact, target: str) -> tuple[Prepared, str]:
    """The job under the budget the artifact was made for, or the smallest the target can keep, which is named then."""
    plan = artifact.plan
    try:
        return prepare(name, plan.method, budgets(artifact), plan.options, target=target), ""
    except BudgetError:
        ample = prepare(name, plan.method, _AMPLE, plan.options, target=target)
    least = ample.planned({part.name: ample.spec(part, 1) for part in plan.parts}).bits
    raised = f"{math.ceil(least * 1000) / 1000:g}bits"
    return prepare(name, plan.method, raised, plan.options, target=target), raised


def _errors(job: Prepared, source: Artifact, lost: float) -> tuple[float, float] | None:
    """|W' - W| / |W| of `source` and of the original rounded to the job's formats, over some rows of every part."""
    then = anew = whole = 0.0
    for part in job.plan.parts:
        spec, count = job.plan.specs[part.name], part.shape[0]
        if not isinstance(spec, PlaneSpec):
            return None
        starts = {min(count * spot // _SPOTS, max(0, count - _SPOT_ROWS)) for spot in range(_SPOTS)}
        for start in starts:
            stop = min(start + _SPOT_ROWS, count)
            rows = job.model.read_rows(part, start, stop).float()
            share = count / (len(starts) * len(rows))
            rounded = sweep(rows.clone(), spec, minmax).pack().dequantize()
            then += share * float((source.planes(part.name, start, stop).dequantize() - rows).square().sum())
            anew += share * float((rounded - rows).square().sum())
            whole += share * float(rows.square().sum())
    return (math.sqrt(then / whole + lost), math.sqrt(anew / whole)) if whole else None
