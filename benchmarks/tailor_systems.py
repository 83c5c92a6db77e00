"""What `tailor.py` compares, by name. Every head is scored as the device has it: encoded, sent, decoded, applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from tailor_cost import in_the_cloud  # beside this file
from torch import nn

from tailorbird.tailor.duet import Static, through
from tailorbird.tailor.finetune import finetuned
from tailorbird.tailor.fleet import Fleet, fleet, uplink
from tailorbird.tailor.folder import Tailored
from tailorbird.tailor.learn import Settings, Told, published, train
from tailorbird.tailor.manifest import Floats, Manifest
from tailorbird.tailor.patch import Patch, full
from tailorbird.tailor.run import finished
from tailorbird.tailor.simulate import replayed
from tailorbird.tailor.staleness import Sent, Stream, ranks_of, send
from tailorbird.tailor.systems import DUET, FineTune, System, find
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders import find as recommender
from tailorbird.zoo.recommenders import settings, training
from tailorbird.zoo.recommenders.model import Recommender, shape_of

LONGER_BY = 5
OWN_EVENTS = 50  # that gradient steps predict
STEPS = ((10, 1e-3), (30, 3e-3))
# Requests by event of the curve: never, one and three of the nine after the first, always.
CURVE = (0.0, 0.12, 0.34, 1.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A trunk and its stream, and the settings of one seed."""

    trunk: Recommender
    about: Mapping[str, Any]
    split: Split
    stream: Stream
    settings: Settings

    @property
    def first(self) -> bool:
        """Whether costs and curves are measured: once, with the first seed."""
        return self.settings.seed == 0


@dataclass(frozen=True)
class Found:
    """What one seed gave: ranks (devices, events) by row, the costs of rows, and a curve of requests."""

    ranks: dict[str, Ints]
    costs: dict[str, Row] = field(default_factory=dict)
    curve: Row | None = None


@dataclass(frozen=True, kw_only=True)
class OneHead(DUET):
    """The same head for everybody."""

    name: ClassVar[str] = "static"
    form: ClassVar[type[nn.Module]] = Static


@dataclass(frozen=True, kw_only=True)
class Steps(FineTune):
    """Gradient steps on the user's own events."""

    steps: int
    rate: float

    def patches(
        self, trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int, manifest: Manifest
    ) -> list[Patch]:
        assert isinstance(maker, Static)
        made = finetuned(trunk, maker.head(), histories, events=OWN_EVENTS, steps=self.steps, rate=self.rate)
        return [full({n: v[row] for n, v in made.items()}, manifest) for row in range(len(histories))]


def tailored(job: Job, name: str) -> Found:
    """A system that makes heads from behaviour: at every event, at the first one, and the curve between."""
    made = _made(job, find(name)())
    real = fleet(made, job.split)
    always = np.broadcast_to(np.arange(job.stream.at.shape[1]), job.stream.at.shape)
    fresh, old = f"{name}, fresh", f"{name}, made at the first event"
    ranks = {fresh: ranks_of(real.table, always), old: ranks_of(real.table, np.zeros_like(always))}
    if not job.first:
        return Found(ranks)
    time = in_the_cloud(made, job.stream)
    costs = {
        fresh: _bytes(job.stream, real.window, real.nbytes) | time,
        old: _bytes(_start(job), real.window, real.nbytes[:, :1]) | time,
    }
    return Found(ranks, costs, curve(job, made, real))


def curve(job: Job, made: Tailored, real: Fleet) -> Row:
    """Quality against requests and bytes; intervals and HR are left to `tailorbird simulate`."""
    items = made.tensors["items.weight"][: made.trunk.shape.items + 1]
    found = replayed(fleet(made, job.split, "validation"), real, items, CURVE, told=print)
    kept = ("policy", "budget", "rate", "requests", "bytes_down", "bytes_up")
    rows = [{key: row[key] for key in kept} | {"ndcg@10": row["ndcg@10"]["mean"]} for row in found["rows"]]
    return {"rows": rows, "against_random": found["against_random"], "detector": found["detector"]}


def one_head(job: Job) -> Found:
    """Its users ask for nothing; it is sent once."""
    name, made = "one head for all", _made(job, OneHead())
    one = dataclasses.replace(job.stream, users=job.stream.users[:1], at=job.stream.at[:1, :1])
    sent = _sent(made, one)
    heads = {key: np.repeat(value[0], job.stream.at.size, axis=0) for key, value in sent.heads.items()}
    costs = {"bytes_up": 0.0, "bytes_down": float(sent.nbytes[0, 0]), "make_ms": 0.0, "encode_ms": 0.0}
    return Found({name: _ranked(job, job.trunk, heads)}, {name: costs})


def as_published(job: Job) -> Found:
    """Trunk and generator trained together from nothing, on as many predictions as both had apart; the head replaces
    the state."""
    name, (joint, maker) = "duet as published, fresh", published(type(job.trunk), job.trunk)
    settings = dataclasses.replace(job.settings, epochs=job.settings.epochs + _epochs_of_the_trunk(job))
    train(joint, maker, job.split, settings, _told(name))
    made = finished(DUET(), joint, maker, job.split, job.settings.window, job.about)
    sent = _sent(made, job.stream)
    heads = {key: value.reshape(-1, *value.shape[2:]) for key, value in sent.heads.items()}
    ranks = {name: _ranked(job, joint, heads, residual=False)}
    if not job.first:
        return Found(ranks)
    costs = _bytes(job.stream, joint.shape.length, sent.nbytes) | in_the_cloud(made, job.stream)
    return Found(ranks, {name: costs})


def _epochs_of_the_trunk(job: Job) -> int:
    """Epochs of a generator that have as many predictions as those of the trunk."""
    events = int(np.maximum(job.split.train_end - job.split.data.offsets[:-1] - 1, 0).sum())
    return round(int(job.about["settings"]["epochs"]) * events / min(job.settings.samples, events))


def gradient_steps(job: Job) -> Found:
    """Heads of each user's own events up to the first of the stream, used for all of it."""
    found, start = Found({}), _start(job)
    for steps, rate in STEPS:
        name = f"fine-tuned per user at the first event, {steps} steps of {rate:g}"
        torch.manual_seed(job.settings.seed)
        way, maker = Steps(steps=steps, rate=rate), Static(job.trunk.shape.width)
        made = finished(way, job.trunk, maker.requires_grad_(False), job.split, 0, job.about)
        sent = _sent(made, start)
        heads = {key: np.repeat(value[:, 0], job.stream.at.shape[1], axis=0) for key, value in sent.heads.items()}
        found.ranks[name] = _ranked(job, job.trunk, heads)
        if job.first:  # users share no step, so a few are as good as many
            costs = _bytes(start, OWN_EVENTS + job.trunk.shape.length, sent.nbytes)
            found.costs[name] = costs | in_the_cloud(made, start, 8)
    return found


def longer(job: Job) -> Found:
    """The trunk trained anew, as it was, on histories five times as long: what reading more is worth without a head."""
    kind = recommender(job.about["name"])
    shape = shape_of(job.about["shape"] | {"length": LONGER_BY * job.about["shape"]["length"]}, kind.sizes)
    chosen = settings.Settings(**job.about["settings"] | {"seed": job.settings.seed})
    torch.manual_seed(job.settings.seed)
    model = kind(shape)
    training.train(training.begin(model, chosen), job.split, chosen, lambda state: print("longer", state.log[-1]))
    ranks = full_ranking(job.split, model.score).ranks.reshape(job.stream.at.shape)
    return Found({f"trunk trained on {shape.length} events in place of {job.about['shape']['length']}": ranks})


SYSTEMS: dict[str, Callable[[Job], Found]] = {
    "static": one_head,
    "duet": lambda job: tailored(job, "duet"),
    "published": as_published,
    "finetune": gradient_steps,
    "diet": lambda job: tailored(job, "diet"),
    "dieting": lambda job: tailored(job, "dieting"),
    "persona": lambda job: tailored(job, "persona"),
    "longer": longer,
}


def _made(job: Job, way: System) -> Tailored:
    maker = way.train(job.trunk, job.split, job.settings, _told(type(way).__name__), None).requires_grad_(False)
    return finished(way, job.trunk, maker, job.split, job.settings.window, job.about)


def _told(name: str) -> Told:
    return lambda row: print(name, row)


def _start(job: Job) -> Stream:
    """The first event of every device."""
    return dataclasses.replace(job.stream, at=job.stream.at[:, :1], states=job.stream.states[:, :1])


def _sent(made: Tailored, stream: Stream) -> Sent:
    return send(stream, made.patches, made.tensors, made.manifest)


def _bytes(stream: Stream, window: int, nbytes: Ints) -> Row:
    """Of one request and its answer, means."""
    return {"bytes_up": float(uplink(stream, window).mean()), "bytes_down": float(nbytes.mean())}


def _ranked(job: Job, trunk: Recommender, heads: Mapping[str, Floats], *, residual: bool = True) -> Ints:
    """Ranks (devices, events) with a head a case (cases, ...), in their order."""
    place = 0

    @torch.no_grad()
    def score(histories: Sequence[Ints]) -> Floats:
        nonlocal place
        some, place = slice(place, place + len(histories)), place + len(histories)
        mine = {name: torch.from_numpy(value[some]) for name, value in heads.items()}
        found: Floats = trunk.ranked(
            trunk.window(histories), lambda state: through(state, mine, residual=residual)
        ).numpy()
        return found

    return full_ranking(job.split, score).ranks.reshape(job.stream.at.shape)
