"""What a replay cost and gave: requests, bytes, quality of all users and of groups, and what it differs from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.tailor.fleet import Fleet, uplink
from tailorbird.tailor.requests import diced, rate
from tailorbird.tailor.staleness import quality, ranks_of
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.metrics import by_length, ndcg, paired

SEEDS = 5  # of the dice of budgeted random
DRAWS = 2000  # of a paired test
Floats = npt.NDArray[np.float64]
Groups = Mapping[str, npt.NDArray[np.bool_]]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Of one fleet.

    Attributes:
        real: the fleet.
        groups: its devices by the length of their histories before the stream.
        alone: NDCG@10 of every device without any head, (devices,).
    """

    real: Fleet
    groups: Groups
    alone: Floats

    def static(self) -> dict[str, Any]:
        """Quality without any head."""
        ranks = _alone(self.real)
        groups = {name: _size(mine) | plain(ranks[mine]) for name, mine in self.groups.items()}
        return plain(ranks) | {"groups": groups}

    def row(self, uses: Sequence[Ints]) -> tuple[dict[str, Any], Floats]:
        """Costs and quality, means over replays, and NDCG@10 of every device; intervals and tests are over devices,
        each with the mean of its own replays."""
        real, events = self.real, np.arange(self.real.stream.at.shape[1])
        up = uplink(real.stream, real.window)
        asked = [used == events for used in uses]  # the first event is the installation
        ranks = np.concatenate([ranks_of(real.table, used) for used in uses], axis=1)
        gained: Floats = ndcg(ranks, 10).mean(1)
        row = {
            "rate": float(np.mean([each[:, 1:].mean() for each in asked])),
            "requests": float(np.mean([each[:, 1:].sum(1).mean() for each in asked])),
            "bytes_down": float(np.mean([(real.nbytes * each).sum(1).mean() for each in asked])),
            "bytes_up": float(np.mean([(up * each).sum(1).mean() for each in asked])),
        }
        groups = {
            name: _size(mine) | plain(ranks[mine]) | {"against_trunk": differing(gained[mine], self.alone[mine])}
            for name, mine in self.groups.items()
        }
        against = {"against_trunk": differing(gained, self.alone), "groups": groups}
        return row | plain(ranks) | against, gained

    def against_dice(self, used: Ints, gained: Floats) -> dict[str, Any]:
        """A learned policy beside dice that ask as often in this very stream: a budget is only what both were
        promised."""
        devices, events = used.shape
        requests = round(rate(used) * devices * (events - 1))
        uses = [diced(devices, events, requests, seed) for seed in range(SEEDS)]
        ranks = np.concatenate([ranks_of(self.real.table, each) for each in uses], axis=1)
        dice = float(np.mean([rate(each) for each in uses]))
        return {"rate": rate(used), "random_rate": dice} | differing(gained, ndcg(ranks, 10).mean(1))


def outcomes(real: Fleet) -> Outcomes:
    """With groups and the trunk alone to compare with."""
    stream = real.stream
    groups = by_length(stream.at[:, 0] - stream.split.data.offsets[stream.users])
    return Outcomes(real, groups, ndcg(_alone(real), 10).mean(1))


def differing(ours: Floats, theirs: Floats) -> dict[str, float]:
    """Mean difference on the same devices, and the p-value of a paired test."""
    return {"difference": float((ours - theirs).mean()), "p": paired(ours, theirs, draws=DRAWS)}


def plain(ranks: Ints) -> dict[str, Any]:
    """`staleness.quality` as plain data."""
    return {name: dataclasses.asdict(value) for name, value in quality(ranks).items()}


def _alone(real: Fleet) -> Ints:
    return ranks_of(real.table, np.full(real.stream.at.shape, -1, np.int64))


def _size(mine: npt.NDArray[np.bool_]) -> dict[str, int]:
    return {"devices": int(mine.sum())}
