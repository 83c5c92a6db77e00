"""A fleet of devices replays real events under every policy of requests: quality against requests and bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.intellectreq import FORMS, check_devices, detect, parted
from tailorbird.tailor.manifest import Floats
from tailorbird.tailor.requests import POLICIES, Requester, calibrate, check_budget, diced, rate, replay
from tailorbird.tailor.staleness import Stream, quality, rank_table, ranks_of, send, stream_of
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.metrics import ndcg, paired
from tailorbird.tasks.sequences.split import Split, Stage

BUDGETS = (0.0, 0.1, 0.2, 0.33, 0.5, 0.75, 1.0)
SEEDS = 5  # of the dice of budgeted random
ID_BYTES = 4
AT_ONCE = 128  # devices


@dataclass(frozen=True)
class Fleet:
    """A stream, and what would have come of every head its devices could have had.

    Attributes:
        stream: the events.
        nbytes: (devices, events): of the patch made at each.
        table: ranks, see `staleness.rank_table`.
        window: events a device sends with a request, at most.
    """

    stream: Stream
    nbytes: Ints
    table: Ints
    window: int


def fleet(tailored: Tailored, split: Split, stage: Stage = "test", devices: int = 0) -> Fleet:
    """Make, send and try every head of a stream, some devices at a time: the heads of all would fill the memory."""
    stream = stream_of(split, tailored.trunk, stage, devices)
    tensors = tailored.tensors
    items = tensors["items.weight"][: tailored.trunk.shape.items + 1]
    sizes, tables = [], []
    for start in range(0, len(stream.users), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        part = dataclasses.replace(stream, users=stream.users[some], at=stream.at[some], states=stream.states[some])
        sent = send(part, tailored.patches, tensors, tailored.manifest)
        sizes.append(sent.nbytes)
        tables.append(rank_table(part, sent.heads, items))
    window = tailored.window or tailored.trunk.shape.length
    return Fleet(stream, np.concatenate(sizes), np.concatenate(tables), window)


def uplink(stream: Stream, window: int) -> Ints:
    """Bytes of the request at every event, (devices, events): the ids of the latest events, `window` at most."""
    found: Ints = ID_BYTES * np.minimum(stream.at - stream.split.data.offsets[stream.users][:, None], window)
    return found


def simulate(
    tailored: Tailored,
    split: Split,
    *,
    budgets: Sequence[float] = BUDGETS,
    devices: int = 0,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Replay the test stream under every policy, each calibrated on the validation stream for every budget.

    Args:
        tailored: trunk and generator.
        split: of `last_events`, the one the trunk was trained on.
        budgets: requests by event.
        devices: only so many; 0 is all.
        told: called with what is being done.

    Returns:
        ``static``: quality without any head; ``rows``: policy, budget, rate, requests, bytes down and up a device and
        quality; ``detector``: AUC of IntellectReq's on the test stream; ``against_random``: p-values of learned
        policies at each budget, next to dice with as many requests in the test stream (``rate``, ``random_rate``).

    Raises:
        DataError: fewer than three devices.
        UsageError: a budget that is no share, or fewer than no devices.
    """
    for budget in budgets:  # before minutes are spent on streams
        check_budget(budget)
    users = len(set(split.cases("validation").user.tolist()))
    check_devices(min(devices, users) if devices > 0 else users)
    told("validation stream")
    trial = fleet(tailored, split, "validation", devices)
    told("test stream")
    real = fleet(tailored, split, "test", devices)
    return replayed(trial, real, tailored.tensors["items.weight"][: tailored.trunk.shape.items + 1], budgets, told)


def replayed(
    trial: Fleet,
    real: Fleet,
    items: Floats,
    budgets: Sequence[float] = BUDGETS,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What `simulate` returns, from the fleets of both stages and the table of items, (items + 1, width)."""
    known, held = parted(trial.stream, trial.table)
    learned = {name: detect(name, known, (real.stream, real.table), items) for name in FORMS}
    policies: dict[str, Requester] = POLICIES | {name: report.requester for name, report in learned.items()}
    rows, against = [], []
    for name, policy in policies.items():
        told(f"policy {name}")
        states = held[0].states if name in learned else trial.stream.states  # not what it was trained on
        for budget in budgets:
            threshold = calibrate(states, policy, budget, seed=1000)
            seeds = range(SEEDS if name == "random" else 1)
            uses = [replay(real.stream.states, policy, threshold, seed) for seed in seeds]
            row, gained = _row(real, uses)
            rows.append({"policy": name, "budget": budget} | row)
            if name in learned and 0 < budget < 1:
                against.append({"policy": name, "budget": budget} | _against(real, uses[0], gained))
    never = np.full(real.stream.at.shape, -1, np.int64)
    return {
        "devices": len(real.stream.users), "events": real.stream.at.shape[1], "payload": float(real.nbytes.mean()),
        "static": _plain(ranks_of(real.table, never)), "rows": rows,
        "detector": {name: {"auc": r.auc, "pairs": r.pairs} for name, r in learned.items()},
        "against_random": against,
    }  # fmt: skip


def _row(real: Fleet, uses: Sequence[Ints]) -> tuple[dict[str, Any], Any]:
    """Means over replays; quality's interval is over devices, each with the mean of its own replays."""
    events = np.arange(real.stream.at.shape[1])
    up = uplink(real.stream, real.window)
    asked = [used == events for used in uses]  # the first event is the installation
    ranks = [ranks_of(real.table, used) for used in uses]
    gained = np.mean([ndcg(each, 10).mean(1) for each in ranks], axis=0)
    found = _plain(ranks[0]) if len(ranks) == 1 else _plain(np.concatenate(ranks, axis=1))
    row = {
        "rate": float(np.mean([each[:, 1:].mean() for each in asked])),
        "requests": float(np.mean([each[:, 1:].sum(1).mean() for each in asked])),
        "bytes_down": float(np.mean([(real.nbytes * each).sum(1).mean() for each in asked])),
        "bytes_up": float(np.mean([(up * each).sum(1).mean() for each in asked])),
    }
    return row | found, gained


def _plain(ranks: Ints) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) for name, value in quality(ranks).items()}


def _against(real: Fleet, used: Ints, gained: Any) -> dict[str, Any]:
    """A learned policy beside dice that ask as often in this very stream: a budget is only what both were promised."""
    devices, events = used.shape
    requests = round(rate(used) * devices * (events - 1))
    row, dice = _row(real, [diced(devices, events, requests, seed) for seed in range(SEEDS)])
    return {
        "rate": rate(used), "random_rate": row["rate"],
        "p": paired(gained, dice, draws=2000), "difference": float((gained - dice).mean()),
    }  # fmt: skip
