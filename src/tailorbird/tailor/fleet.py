"""Devices with a stream of real events each, and what would have come of every head they could have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as loads
from safetensors.numpy import save as dumps

from tailorbird.errors import ModelError
from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.manifest import Tensors
from tailorbird.tailor.staleness import NEVER, Stream, places, rank_table, seen, send
from tailorbird.tailor.work import Pieces, once
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Split, Stage

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


def fleet(
    tailored: Tailored,
    split: Split,
    stage: Stage = "test",
    devices: int = 0,
    pieces: Pieces | None = None,
    told: Callable[[int], None] = lambda made: None,
) -> Fleet:
    """Make, send and try every head of a stream, some devices at a time: the heads of all would fill the memory.

    Args:
        tailored: trunk and generator.
        split: of `last_events`.
        stage: whose events.
        devices: only so many; 0 is all.
        pieces: where finished devices are kept, and read from.
        told: called with how many devices are finished that were not before.

    Raises:
        DataError, UsageError: see `staleness.places`.
        ModelError: a kept piece is damaged.
    """
    users, at = places(split, stage, devices)
    parts = []
    for start in range(0, len(users), AT_ONCE):
        some, name = slice(start, start + AT_ONCE), _name(stage, start)
        fresh = pieces is None or name not in pieces
        data = once(pieces, name, partial(_made, tailored, split, users[some], at[some]))
        parts.append(_checked(data, at[some].shape, tailored.trunk.shape.width, name))
        if fresh:
            told(len(users[some]))
    states, sizes, table = (np.concatenate([part[key] for part in parts]) for key in ("states", "nbytes", "table"))
    window = tailored.window or tailored.trunk.shape.length
    return Fleet(Stream(split, users, at, states), sizes, table, window)


def kept(pieces: Pieces | None, stage: Stage, devices: int) -> int:
    """How many devices of a stage are finished already."""
    starts = range(0, devices, AT_ONCE)
    return sum(min(AT_ONCE, devices - s) for s in starts if pieces is not None and _name(stage, s) in pieces)


def uplink(stream: Stream, window: int) -> Ints:
    """Bytes of the request at every event, (devices, events): the ids of the latest events, `window` at most."""
    found: Ints = ID_BYTES * np.minimum(stream.at - stream.split.data.offsets[stream.users][:, None], window)
    return found


def _name(stage: Stage, start: int) -> str:
    return f"{stage}-{start}.safetensors"


def _made(tailored: Tailored, split: Split, users: Ints, at: Ints) -> bytes:
    """States, sizes and ranks of some devices."""
    stream, tensors = seen(split, tailored.trunk, users, at), tailored.tensors
    sent = send(stream, tailored.patches, tensors, tailored.manifest)
    table = rank_table(stream, sent.heads, tensors["items.weight"][: tailored.trunk.shape.items + 1])
    return dumps({"states": np.ascontiguousarray(stream.states), "nbytes": sent.nbytes, "table": table})


def _checked(data: bytes, shape: tuple[int, ...], width: int, name: str) -> Tensors:
    """What `_made` gave: its shapes, types and bounds.

    Raises:
        ModelError: it is something else.
    """
    devices, events = shape
    wanted = {
        "states": (np.float32, (devices, events, width)), "nbytes": (np.int64, (devices, events)),
        "table": (np.int64, (devices, events, events + 1)),
    }  # fmt: skip
    try:
        found = loads(data)
        good = {key: (value.dtype.type, value.shape) for key, value in found.items()} == wanted
        good = good and bool(np.isfinite(found["states"]).all() and (found["nbytes"] > 0).all())
        good = good and bool((found["table"] >= NEVER).all())
    except (SafetensorError, KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise ModelError(f"{name} does not hold {devices} devices", hint="remove the unfinished work and begin again")
    return found
