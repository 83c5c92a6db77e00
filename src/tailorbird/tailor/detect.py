"""A detector for a tailored model, to go with it to the devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.tailor.fleet import fleet
from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.intellectreq import FORMS, check_devices, detect, parted
from tailorbird.tailor.requests import calibrate, rate, replay
from tailorbird.tailor.staleness import stream_of
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender


def check(budget: float, form: str, split: Split, trunk: Recommender) -> None:
    """Refuse before anything is trained what no detector can be made of.

    Raises:
        UsageError: a budget that needs no detector, or an unknown form.
        DataError: the split is no stream of events, or one of fewer than three devices.
    """
    if form not in FORMS:
        raise UsageError(f"there is no detector {form!r}", hint=f"there are: {', '.join(FORMS)}")
    if not 0 < budget < 1:
        raise UsageError(f"a budget of {budget}", hint="above 0 and below 1: never and always need no detector")
    stream_of(split, trunk, "validation", devices=1)
    check_devices(len(set(split.validation.user.tolist())))


def with_detector(tailored: Tailored, split: Split, budget: float, form: str) -> tuple[Tailored, dict[str, Any]]:
    """Train a detector on the validation stream, every patch of it made and sent for real.

    Args:
        tailored: the model.
        split: of `last_events`.
        budget: share of events with a request; the threshold keeps it on devices the detector was not trained on.
        form: one of `FORMS`.

    Returns:
        The model with its detector; form, budget, threshold, pairs it learned from, and of the held-out devices their
        number, the AUC and the rate of requests.

    Raises:
        DataError: fewer than three devices.
    """
    trial = fleet(tailored, split, "validation")
    known, held = parted(trial.stream, trial.table)
    items = tailored.tensors["items.weight"][: tailored.trunk.shape.items + 1]
    report = detect(form, known, held, items)
    # By what a device runs: torch may differ in the last digit, and a threshold is the score of somebody.
    threshold = calibrate(held[0].states, report.asking(0.0, budget), budget)
    asking = report.asking(threshold, budget)
    facts = {
        "form": form, "budget": budget, "threshold": asking.threshold, "pairs": report.pairs, "auc": report.auc,
        "devices": len(held[0].users), "rate": rate(replay(held[0].states, asking, asking.threshold)),
    }  # fmt: skip
    return replace(tailored, asking=asking), facts
