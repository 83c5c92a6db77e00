"""IntellectReq: a detector on the device that says when the head in use is no longer good enough (arXiv 2302.07335).

Stage 2, the distribution mapper: from a state u a prior over 16 numbers, from u and the next item a posterior, and from
u and a draw a prediction of the next item; trained on what follows, with KL(posterior || prior). How far predictions
from several draws of the prior lie apart is the uncertainty of a state. Stage 3, the mis-recommendation detector: from
the state at the last request, the state now and the uncertainty, whether the head in use is right. A device asks where
that is unlikely.

Departures, all towards what the paper says: draws are normal (its program's are uniform), with one scale for drawing
and for the KL, variance is taken over draws (its program's over dimensions), draws are
fixed so that a device decides once, stage 3 also sees how far the two states lie apart (a line through both can't tell
"the same" from "another"), and "right" means the next item among the first ten of the whole catalogue. The form
``intellectreq published`` undoes the first four and the sixth; its thresholds too come of validation devices, where
the program takes them from the test.

Devices of the validation stream have three parts: most train, some choose the epoch, and those `parted` holds out are
seen by neither stage: thresholds are theirs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.errors import DataError
from tailorbird.tailor.ask import DRAWS, LATENT, Asking, shapes
from tailorbird.tailor.manifest import Floats
from tailorbird.tailor.requests import Requester, Situation
from tailorbird.tailor.staleness import Stream
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.metrics import auc

TOP, BATCH = 10, 256
HELD = 0.2  # share of devices that are held out, and of the others on which the epoch is chosen
Part = tuple[Stream, Ints]  # events of some devices, and their ranks, from `staleness.rank_table`
FORMS: dict[str, dict[str, bool]] = {
    "intellectreq": {},
    "intellectreq gain": {"gain": True},
    "intellectreq published": {"published": True},
}


class Space(nn.Module):
    """A state to a normal distribution over `LATENT` numbers, and such numbers back to a state."""

    def __init__(self, into: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(into, width)
        self.mean, self.log = nn.Linear(width, LATENT), nn.Linear(width, LATENT)
        self.decode = nn.Linear(LATENT, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (batch, LATENT) each."""
        inner = torch.tanh(self.inner(x))
        return self.mean(inner), self.log(inner).clamp(-8, 8)


class Detector(nn.Module):
    """Stages 2 and 3 for states of a width; `published` as above."""

    def __init__(self, width: int, *, published: bool = False) -> None:
        super().__init__()
        self.width, self.published = width, published
        self.state = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.prior, self.posterior = Space(width, width), Space(2 * width, width)
        self.predict = nn.Linear(2 * width, width)
        self.pair, self.score = nn.Linear((2 if published else 3) * width, 1), nn.Linear(2, 1)
        self.noise: Tensor
        self.register_buffer("noise", self._draw(torch.empty(DRAWS, LATENT)))

    def mapped(self, now: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Stage 2: predictions (batch, width) of the next item's vector, and the KL of every row (batch,)."""
        u = self.state(now)
        post, prior = self.posterior(torch.cat([u, target], 1)), self.prior(u)
        drawn = post[0] + self._draw(post[0]) * (0.5 * post[1]).exp()
        if self.published:  # there a scale is exp(log) in the KL, and exp(log / 2) where one draws
            post, prior = (post[0], 2 * post[1]), (prior[0], 2 * prior[1])
        return self.predict(torch.cat([u, self.posterior.decode(drawn)], 1)), divergence(post, prior)

    def forward(self, now: Tensor, then: Tensor) -> Tensor:
        """Stage 3: the logit that the head in use is right, (batch,)."""
        return self.judge(*self.features(now, then))

    def features(self, now: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
        """What stage 3 reads of stage 2: both states and their distance (batch, 3 width), or without it if published;
        the uncertainty (batch,)."""
        u, old = self.state(now), self.state(then)
        mean, log = self.prior(u)
        drawn = mean[None] + self.noise[:, None] * (0.5 * log).exp()[None]
        guesses = self.predict(torch.cat([u.expand(DRAWS, *u.shape), self.prior.decode(drawn)], 2))
        states = [old, u] if self.published else [old, u, (old - u).abs()]
        return torch.cat(states, 1), uncertainty(guesses, published=self.published)

    def judge(self, states: Tensor, spread: Tensor) -> Tensor:
        """`features` to the logit."""
        pair = torch.tanh(self.pair(states))
        found: Tensor = self.score(torch.cat([pair, spread[:, None]], 1))[:, 0]
        return found

    def _draw(self, like: Tensor) -> Tensor:
        """Numbers of the shape of another tensor: normal, as published between 0 and 1."""
        return torch.rand_like(like) if self.published else torch.randn_like(like)


def divergence(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """KL of diagonal normals, given as means and logarithms of variances (batch, n): (batch,)."""
    (mean, log), (other, other_log) = first, second
    return 0.5 * (other_log - log + ((mean - other) ** 2 + log.exp()) / other_log.exp() - 1).sum(1)


def uncertainty(guesses: Tensor, *, published: bool = False) -> Tensor:
    """How far guesses (draws, batch, width) lie apart, (batch,): their variance over draws, summed over dimensions; as
    published the variance over dimensions, summed over draws."""
    if published:
        return guesses.var(2, unbiased=False).sum(0)
    return guesses.var(0, unbiased=False).sum(1)


@dataclass(frozen=True)
class Report:
    """What training a detector gave.

    Attributes:
        model: the detector.
        auc: on the devices it was judged by, which chose nothing.
        pairs: of an event and an earlier one that it learned from.
    """

    model: Detector
    auc: float
    pairs: int

    @property
    def requester(self) -> Requester:
        """Scores situations; asks where the head in use is unlikely to be right."""
        return requester(self.model)

    def asking(self, threshold: float, budget: float) -> Asking:
        """What a device holds of it."""
        limit = np.finfo(np.float64).max  # never, as JSON can say it
        state, model = self.model.state_dict(), self.model
        tensors = {name: state[name].numpy() for name in shapes(model.width, model.published)}
        return Asking(tensors, float(np.clip(threshold, -limit, limit)), budget, model.published)


def detect(form: str, known: Part, judged: Part, items: Floats, seed: int = 0) -> Report:
    """Both stages of one of `FORMS`.

    Args:
        form: its name.
        known: devices to learn from, see `parted`.
        judged: others, on which the AUC is measured.
        items: the table of items, (items + 1, width).
        seed: of every random choice.
    """
    way = FORMS[form]
    mapped = mapper(known[0], items, published=way.get("published", False), seed=seed)
    return learn(mapped, known, judged, gain=way.get("gain", False), seed=seed)


def check_devices(devices: int) -> None:
    """Refuse a number of devices too small to be parted.

    Raises:
        DataError: fewer than three.
    """
    if devices < 3:
        raise DataError(f"no detector learns from {devices} devices", hint="take three or more")


def parted(stream: Stream, table: Ints, seed: int = 0) -> tuple[Part, Part]:
    """Devices to learn from, and `HELD` of all to calibrate a threshold on.

    Raises:
        DataError: fewer than three devices.
    """
    devices = len(stream.users)
    check_devices(devices)
    held = _some(devices, seed)
    return _part(stream, table, ~held), _part(stream, table, held)


def mapper(
    stream: Stream, items: Floats, *, published: bool = False, steps: int = 100, rate: float = 0.01, seed: int = 0
) -> Detector:
    """Stage 2 on a validation stream.

    Args:
        stream: of validation events.
        items: the table of items, (items + 1, width).
        published: see above.
        steps: of Adam, `BATCH` events each.
        rate: of Adam.
        seed: of every random choice.
    """
    torch.manual_seed(seed)
    model = Detector(stream.states.shape[2], published=published)
    optimiser, table = torch.optim.Adam(freeze(model, 2), rate), torch.from_numpy(items)
    now = torch.from_numpy(stream.states.reshape(-1, stream.states.shape[2]))
    target = torch.from_numpy(stream.split.data.items[stream.at.reshape(-1)])
    for _ in range(steps):
        some = torch.randperm(len(now))[:BATCH]
        guess, kl = model.mapped(now[some], table[target[some]])
        loss = functional.cross_entropy((guess @ table.T)[:, 1:], target[some] - 1) + kl.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


def learn(
    mapped: Detector,
    known: Part,
    judged: Part,
    *,
    gain: bool = False,
    steps: int = 200,
    rate: float = 0.03,
    seed: int = 0,
) -> Report:
    """Stage 3; four of the known devices in five train, the fifth chooses when to stop.

    Args:
        mapped: from `mapper`; it is left as it is.
        known: the stream of `mapper`.
        judged: of other devices, or later: on them the AUC is measured.
        gain: learn whether a fresh head would do no better, in place of whether the old one is right.
        steps: of Adam, 1024 pairs each.
        rate: of Adam.
        seed: of every random choice.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(mapped)
    now, then, right = (torch.from_numpy(array) for array in pairs(*known, gain=gain))
    devices = len(known[0].users)
    stop = torch.from_numpy(np.tile(_some(devices, seed + 1), len(now) // devices))
    _stage3(model, (now, then, right), stop, steps, rate)
    return Report(model, _auc(model, judged, gain), int((~stop).sum()))


def _auc(model: Detector, judged: Part, gain: bool) -> float:
    now, then, right = pairs(*judged, gain=gain)
    with torch.no_grad():
        found = model(torch.from_numpy(now), torch.from_numpy(then)).double().numpy()
    return auc(right > 0, found) if 0 < right.sum() < len(right) else 0.5


def _some(devices: int, seed: int) -> npt.NDArray[np.bool_]:
    """`HELD` of the devices, at least one."""
    chosen = np.zeros(devices, bool)
    chosen[np.random.default_rng(seed).permutation(devices)[: max(1, round(HELD * devices))]] = True
    return chosen


def _part(stream: Stream, table: Ints, rows: npt.NDArray[np.bool_]) -> Part:
    part = replace(stream, users=stream.users[rows], at=stream.at[rows], states=stream.states[rows])
    return part, table[rows]


def pairs(stream: Stream, table: Ints, *, gain: bool = False) -> tuple[Floats, Floats, Floats]:
    """States now and at the request, (pairs * devices, width), and whether the old head is right (float, 0 or 1), for
    every event and every earlier one; devices vary fastest."""
    events = stream.at.shape[1]
    both = [(i, j) for i in range(1, events) for j in range(i)]
    now = np.concatenate([stream.states[:, i] for i, _ in both])
    then = np.concatenate([stream.states[:, j] for _, j in both])
    old = np.concatenate([table[:, i, j + 1] for i, j in both])
    fresh = np.concatenate([table[:, i, i + 1] for i, _ in both])
    return now, then, ((old <= fresh) if gain else (old < TOP)).astype(np.float32)


def requester(model: Detector) -> Requester:
    """The policy of a trained detector: high where the head in use is unlikely to be right."""

    @torch.no_grad()
    def score(seen: Situation) -> Floats:
        found: Floats = -model(torch.from_numpy(seen.now), torch.from_numpy(seen.then)).numpy()
        return found

    return score


def freeze(model: Detector, stage: int) -> list[nn.Parameter]:
    """The parameters of one stage, and only they can move."""
    third = [*model.pair.parameters(), *model.score.parameters()]
    model.requires_grad_(stage == 2)
    for parameter in third:
        parameter.requires_grad_(stage == 3)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _stage3(model: Detector, data: tuple[Tensor, Tensor, Tensor], stop: Tensor, steps: int, rate: float) -> None:
    right, optimiser = data[2], torch.optim.Adam(freeze(model, 3), rate)
    with torch.no_grad():  # stage 2 no longer moves
        states, spread = model.features(*data[:2])
    places, best, kept = torch.nonzero(~stop)[:, 0], float("inf"), model.state_dict()
    for step in range(steps):
        some = places[torch.randint(len(places), (1024,))]
        loss = functional.binary_cross_entropy_with_logits(model.judge(states[some], spread[some]), right[some])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 10 == 9:
            with torch.no_grad():
                logits = model.judge(states[stop], spread[stop])
                found = functional.binary_cross_entropy_with_logits(logits, right[stop])
            if float(found) < best:
                best, kept = float(found), {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    model.requires_grad_(False).eval()
