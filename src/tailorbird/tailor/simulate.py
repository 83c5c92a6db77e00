"""A fleet of devices replays real events under every policy of requests: quality against requests and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tailorbird.files import atomic_folder, json_bytes, unfinished
from tailorbird.report import write_simulation
from tailorbird.tailor.fleet import Fleet, fleet, kept
from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.intellectreq import FORMS, check_devices, detect, parted
from tailorbird.tailor.manifest import Floats, digest_of
from tailorbird.tailor.outcome import SEEDS, Outcomes, outcomes
from tailorbird.tailor.requests import POLICIES, Requester, calibrate, check_budget, replay
from tailorbird.tailor.staleness import places
from tailorbird.tailor.work import Pieces, once
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.folder import forget

BUDGETS = (0.0, 0.1, 0.2, 0.33, 0.5, 0.75, 1.0)
Told = Callable[[str, int, int], None]
Row = dict[str, Any]


def simulate(
    tailored: Tailored,
    split: Split,
    *,
    budgets: Sequence[float] = BUDGETS,
    devices: int = 0,
    work: Path | None = None,
    told: Told = lambda what, done, total: None,
) -> Row:
    """Replay the test stream under every policy, each calibrated on the validation stream for every budget.

    Args:
        tailored: trunk and generator.
        split: of `last_events`, the one the trunk was trained on.
        budgets: requests by event.
        devices: only so many; 0 is all.
        work: a folder that keeps finished devices and policies, and has them where a simulation was interrupted: the
            result is the same.
        told: called with a stage, how much of it is done, and how much there is.

    Returns:
        ``static``: quality without any head; ``rows``: policy, budget, rate, requests, bytes down and up a device and
        quality, of groups by length of history too, with the difference from the trunk alone (``against_trunk``);
        ``detector``: AUC of IntellectReq's on the test stream; ``against_random``: p-values of learned
        policies at each budget, next to dice with as many requests in the test stream (``rate``, ``random_rate``).

    Raises:
        DataError: fewer than three devices.
        UsageError: a budget that is no share, fewer than no devices, or work that is of another simulation.
        ModelError: that work is damaged.
    """
    for budget in budgets:  # before minutes are spent on streams
        check_budget(budget)
    count = len(places(split, "validation", devices)[0])
    check_devices(count)
    pieces = None if work is None else Pieces(work, job_of(tailored, split, budgets, devices))
    done = kept(pieces, "validation", count) + kept(pieces, "test", count)
    told("streams of devices", done, 2 * count)

    def more(made: int) -> None:
        nonlocal done
        done += made
        told("streams of devices", done, 2 * count)

    trial = fleet(tailored, split, "validation", devices, pieces, more)
    real = fleet(tailored, split, "test", devices, pieces, more)
    items = tailored.tensors["items.weight"][: tailored.trunk.shape.items + 1]
    return replayed(trial, real, items, budgets, told, pieces)


def simulate_to(
    out: Path,
    tailored: Tailored,
    split: Split,
    *,
    budgets: Sequence[float] = BUDGETS,
    devices: int = 0,
    resume: bool = False,
    told: Told = lambda what, done, total: None,
) -> Row:
    """`simulate`, with a page ``report.html`` and its data in a new folder.

    Args:
        out: the folder; what is unfinished is kept beside it.
        tailored, split, budgets, devices, told: see `simulate`.
        resume: go on with an interrupted simulation of the same options; the result is the same.

    Raises:
        UsageError: `out` exists, or there is an unfinished simulation and none was to be resumed.
        DataError, UsageError, ModelError: see `simulate`.
    """
    work = unfinished(out, "simulation", resume=resume)
    found = simulate(tailored, split, budgets=budgets, devices=devices, work=work, told=told)
    job, about = job_of(tailored, split, budgets, devices), tailored.about
    facts = {key: job[key] for key in ("manifest", "system", "window", "budgets", "torch", "threads")}
    facts |= {key: about[key] for key in ("data", "settings", "options") if key in about}
    with atomic_folder(out) as aside:
        versions = {"tailorbird": version("tailorbird")}
        write_simulation(aside, found | facts | {"model": tailored.trunk.name, "versions": versions})
    forget(work)
    return found


def job_of(tailored: Tailored, split: Split, budgets: Sequence[float], devices: int) -> dict[str, Any]:
    """Everything that decides the result of a simulation, as plain data."""
    maker = {name: tensor.numpy() for name, tensor in tailored.maker.state_dict().items()}
    return {
        "manifest": tailored.manifest.digest, "system": tailored.system.name,
        "options": asdict(tailored.system), "maker": digest_of(maker), "window": tailored.window,
        "data": split.data.digest, "split": split.name, "budgets": list(budgets),
        "devices": devices, "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


def replayed(
    trial: Fleet,
    real: Fleet,
    items: Floats,
    budgets: Sequence[float] = BUDGETS,
    told: Told = lambda what, done, total: None,
    pieces: Pieces | None = None,
) -> Row:
    """What `simulate` returns, from the fleets of both stages and the table of items, (items + 1, width)."""
    found, policies = outcomes(real), {}
    for what, names in (("policies", POLICIES), ("learned policies", FORMS)):  # a pace of their own each
        done = sum(pieces is not None and _file(name) in pieces for name in names)
        told(what, done, len(names))
        for name in names:
            fresh = pieces is None or _file(name) not in pieces
            policies[name] = json.loads(once(pieces, _file(name), partial(_policy, name, trial, found, items, budgets)))
            if fresh:
                done += 1
                told(what, done, len(names))
    return {
        "devices": len(real.stream.users), "events": real.stream.at.shape[1], "payload": float(real.nbytes.mean()),
        "static": found.static(), "rows": [row for each in policies.values() for row in each["rows"]],
        "detector": {name: policies[name]["detector"] for name in FORMS},
        "against_random": [row for each in policies.values() for row in each["against_random"]],
    }  # fmt: skip


def _policy(name: str, trial: Fleet, found: Outcomes, items: Floats, budgets: Sequence[float]) -> bytes:
    """A policy at every budget."""
    requester, states, facts = _requester(name, trial, found.real, items)
    rows, against = [], []
    for budget in budgets:
        threshold = calibrate(states, requester, budget, seed=1000)
        seeds = range(SEEDS if name == "random" else 1)
        uses = [replay(found.real.stream.states, requester, threshold, seed) for seed in seeds]
        row, gained = found.row(uses)
        rows.append({"policy": name, "budget": budget} | row)
        if name in FORMS and 0 < budget < 1:
            against.append({"policy": name, "budget": budget} | found.against_dice(uses[0], gained))
    return json_bytes({"rows": rows, "against_random": against, "detector": facts})


def _requester(name: str, trial: Fleet, real: Fleet, items: Floats) -> tuple[Requester, Floats, Mapping[str, Any]]:
    """A policy, the states to calibrate it on, and what training it gave."""
    if name in POLICIES:
        return POLICIES[name], trial.stream.states, {}
    known, held = parted(trial.stream, trial.table)
    report = detect(name, known, (real.stream, real.table), items)
    facts = {"auc": report.auc, "pairs": report.pairs}
    return report.requester, held[0].states, facts  # not what it was trained on


def _file(policy: str) -> str:
    return f"policy {policy}.json"
