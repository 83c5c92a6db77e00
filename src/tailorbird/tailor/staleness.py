"""Streams of real events on devices: what the device sees now and what the cloud saw last, as an axis of the data.

For every event of a device, and every earlier event at which its head may have been made, the rank of what really came
next is computed once (`rank_table`). Any policy of requests is then a walk through that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.tailor.head import mapped, stacked
from tailorbird.tailor.manifest import Floats, Manifest, Tensors
from tailorbird.tailor.patch import Patch
from tailorbird.tailor.wire import encode, receive
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.metrics import Interval, hit, interval, ndcg
from tailorbird.tasks.sequences.ranking import pessimistic
from tailorbird.tasks.sequences.split import Split, Stage
from tailorbird.zoo.recommenders.din import DIN
from tailorbird.zoo.recommenders.model import Recommender

Maker = Callable[[Sequence[Ints]], Sequence[Patch]]
TOLERANCE = 0.01  # of the largest number of a tensor: int8 deltas may be sent
BATCH = 512
NEVER = -1


@dataclass(frozen=True)
class Stream:
    """Events of devices, as many of each.

    Attributes:
        split: where they come from.
        users: (devices,).
        at: (devices, events): places of the events among all.
        states: (devices, events, width): what the trunk makes of the history before each.
        towards: where a state depends on the candidate: from a history to the states of all items, (items + 1, width).
    """

    split: Split
    users: Ints
    at: Ints
    states: Floats
    towards: Callable[[Ints], Floats] | None = None

    def history(self, device: int, event: int) -> Ints:
        """What had happened before an event."""
        return self.split.history(int(self.users[device]), int(self.at[device, event]))


@dataclass(frozen=True)
class Sent:
    """What devices got for every event at which they might have asked.

    Attributes:
        heads: (devices, events, ...) of every tensor, as it is after the wire.
        nbytes: (devices, events): of the messages.
    """

    heads: Mapping[str, Floats]
    nbytes: Ints


def stream_of(split: Split, trunk: Recommender, stage: Stage = "test", devices: int = 0) -> Stream:
    """The stream of a split made by `last_events`; of the first `devices` users, if given.

    Raises:
        DataError, UsageError: see `places`.
    """
    return seen(split, trunk, *places(split, stage, devices))


def places(split: Split, stage: Stage = "test", devices: int = 0) -> tuple[Ints, Ints]:
    """``users`` and ``at`` of `Stream`.

    Raises:
        DataError: users with other numbers of events, or with one.
        UsageError: a number of devices below 0.
    """
    if devices < 0:
        raise UsageError(f"{devices} devices", hint="how many users, or 0 for all")
    cases = split.cases(stage)
    users, counts = np.unique(cases.user, return_counts=True)
    if len(np.unique(counts)) != 1 or counts[0] < 2:
        raise DataError(f"split {split.name!r} is no stream of events", hint="train the trunk with --split last-10")
    users = users[: devices or None]
    return users, cases.at.reshape(-1, counts[0])[: len(users)]


def seen(split: Split, trunk: Recommender, users: Ints, at: Ints) -> Stream:
    """The stream of some users, with what the trunk makes of their histories."""
    histories = [split.history(int(user), int(place)) for user, row in zip(users, at, strict=True) for place in row]
    with torch.no_grad():
        parts = [trunk.summary(trunk.window(histories[i : i + BATCH])) for i in range(0, len(histories), BATCH)]

    @torch.no_grad()
    def towards(history: Ints) -> Floats:
        found: Floats = trunk.last(trunk.window([history]))[0].numpy()
        return found

    states = torch.cat(parts).numpy().reshape(*at.shape, -1)
    return Stream(split, users, at, states, towards if isinstance(trunk, DIN) else None)


def send(stream: Stream, make: Maker, trunk: Tensors, manifest: Manifest) -> Sent:
    """Make the patch of every event and send it: as bytes, with int8 deltas where those are near enough, and back."""
    heads, sizes = [], []
    histories = [stream.history(d, e) for d in range(len(stream.users)) for e in range(stream.at.shape[1])]
    for start in range(0, len(histories), BATCH):
        for patch in make(histories[start : start + BATCH]):
            message = encode(patch, trunk, manifest, tolerance=TOLERANCE)
            heads.append(receive(message, trunk, manifest))
            sizes.append(len(message))
    joined = {name: values.reshape(*stream.at.shape, *values.shape[1:]) for name, values in stacked(heads).items()}
    return Sent(joined, np.array(sizes, np.int64).reshape(stream.at.shape))


def rank_table(stream: Stream, heads: Mapping[str, Floats], items: Floats) -> Ints:
    """Rank of what came next at event i with the head made at event j.

    Args:
        stream: the events.
        heads: (devices, events, ...).
        items: the table, (items + 1, width).

    Returns:
        int64 (devices, events, events + 1): [:, i, 0] without a head, [:, i, j + 1] with that of event j; `NEVER` where
        j > i.
    """
    devices, events = stream.at.shape
    out = np.full((devices, events, events + 1), NEVER, np.int64)
    for device in range(devices):
        for event in range(events):
            scores = _scores(stream, heads, items, device, event)
            target = stream.split.data.items[stream.at[device, event]]
            right = scores[:, target].copy()
            scores[:, stream.history(device, event)] = -np.inf
            scores[:, target] = right
            out[device, event, : event + 2] = pessimistic(scores, np.full(len(scores), target))
    return out


def _scores(stream: Stream, heads: Mapping[str, Floats], items: Floats, device: int, event: int) -> Floats:
    """Without a head, and with that of every event so far: (event + 2, items + 1)."""
    mine = {name: values[device, : event + 1] for name, values in heads.items()}
    if stream.towards is None:
        state = stream.states[device, event][None]
        found: Floats = np.concatenate([state, mapped(state, mine)]) @ items.T
        return found
    states = stream.towards(stream.history(device, event))
    each = (mapped(states, {name: values[j] for name, values in mine.items()}) for j in range(event + 1))
    return np.stack([np.einsum("ij,ij->i", one, items) for one in (states, *each)])


def ranks_of(table: Ints, used: Ints) -> Ints:
    """Ranks (devices, events) with the heads of the events `used`; -1 means without one."""
    return np.take_along_axis(table, used[:, :, None] + 1, axis=2)[:, :, 0]


def quality(ranks: Ints) -> dict[str, Interval]:
    """NDCG@10 and HR@10: means over devices, which count once each."""
    return {"ndcg@10": interval(ndcg(ranks, 10).mean(1)), "hr@10": interval(hit(ranks, 10).mean(1))}
