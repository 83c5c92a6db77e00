"""Training what makes heads, on a frozen trunk; epochs are chosen on validation, the maker as it came among them.

For DUET and one head for all that is the trunk itself. DIET comes with a random mask of its head and Persona with its
head for all: there the trunk is among the choices of the first stage, the head, alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError
from tailorbird.kernels import dense
from tailorbird.tailor.duet import Duet, Heads, behind, through
from tailorbird.tailor.loss import binary, seen, surprise
from tailorbird.tailor.manifest import Floats
from tailorbird.tailor.work import Work
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.metrics import ndcg
from tailorbird.tasks.sequences.ranking import Scorer, full_ranking
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender

Told = Callable[[dict[str, Any]], None]
MAX_WINDOW = 10_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train a generator.

    Attributes:
        epochs: at most.
        batch: predictions at once.
        rate: of Adam.
        decay: of weights, decoupled.
        samples: predictions an epoch, drawn from all training events.
        window: events the cloud reads; 0: as many as the trunk.
        lag: heads are trained to serve up to so many events after they were made; 0: fresh ones only.
        patience: epochs without a better NDCG@10 before training ends.
        seed: of every random choice.
    """

    epochs: int = 12
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.0
    samples: int = 30_000
    window: int = 0
    lag: int = 5
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what can't be trained with.

        Raises:
            UsageError: a value out of range.
        """
        good = min(self.epochs, self.batch, self.samples, self.patience) >= 1
        good &= 0 <= self.window <= MAX_WINDOW and self.lag >= 0 and self.rate > 0
        if not good:
            hint = f"counts of 1 and more, a positive rate, a window of at most {MAX_WINDOW}"
            raise UsageError(f"can't train with {self}", hint=hint)


@dataclass
class State:
    """Where training stands; see `zoo.recommenders.training.State`.

    Attributes:
        random: draws the events of every epoch.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    random: np.random.Generator
    epoch: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    best_ndcg: float = -1.0
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def finished(self, settings: Settings) -> bool:
        """No more epochs, or no better ones for too long."""
        since = self.epoch - max((row["epoch"] for row in self.log if row["best"]), default=self.epoch)
        return self.epoch >= settings.epochs or since >= settings.patience


@dense.fast()
def train(
    trunk: Recommender,
    maker: nn.Module,
    split: Split,
    settings: Settings,
    told: Told = lambda row: None,
    work: Work | None = None,
    stage: str = "generator",
) -> list[dict[str, Any]]:
    """Train a `Duet` or `Static` in place; it ends with its best tensors. The trunk is left as it is, unless the maker
    is the published form, which trains both and keeps the last epoch (its authors chose on the test, which we don't).

    Args:
        trunk: frozen.
        maker: from item vectors and counts to heads.
        split: training events and validation cases.
        settings: how.
        told: called after every epoch with its entry, ``stage`` and ``left``, the seconds it may take yet at most.
        work: keeps the state of every epoch, and has it where training was interrupted; not for the published form.
        stage: what it is called there.

    Returns:
        An entry an epoch: epoch, loss, ndcg@10, seconds, best. Epoch 0 is the maker as it came, without a loss.
    """
    joint = not maker.residual
    parameters = [p for p in maker.parameters() if p.requires_grad] + (list(trunk.parameters()) if joint else [])
    trunk.requires_grad_(joint)
    optimiser = torch.optim.AdamW(parameters, settings.rate, weight_decay=settings.decay)
    state = State(maker, optimiser, np.random.default_rng(settings.seed))
    if work is not None:
        work.restore(stage, state)
    while not state.finished(settings):
        start = time.perf_counter()
        state.epoch += 1
        lost = _epoch(trunk, maker, split, settings, optimiser, state.random) if state.epoch else None
        found = validate(trunk, maker, split, settings)
        better = found > state.best_ndcg or joint
        if better:
            state.best_ndcg, state.best = found, {k: v.clone() for k, v in maker.state_dict().items()}
        state.seconds += time.perf_counter() - start
        row = {"epoch": state.epoch, "loss": lost, "ndcg@10": found, "seconds": state.seconds, "best": better}
        state.log.append(row)
        if work is not None:
            work.save(stage, state)
        left = state.seconds / (state.epoch + 1) * (settings.epochs - state.epoch)
        told(row | {"stage": stage, "left": 0.0 if state.finished(settings) else left})
    maker.load_state_dict(state.best)
    trunk.requires_grad_(False).eval()
    maker.eval()
    return state.log


def validate(trunk: Recommender, maker: nn.Module, split: Split, settings: Settings) -> float:
    """NDCG@10 on the validation cases, every one with a head of its own, full ranking."""
    return float(ndcg(full_ranking(split, scorer(trunk, maker, settings.window), "validation").ranks, 10).mean())


def scorer(trunk: Recommender, maker: nn.Module, window: int = 0) -> Scorer:
    """Scores with a fresh head a history."""

    @torch.no_grad()
    def score(histories: Sequence[Ints]) -> Floats:
        trunk.eval()
        heads, residual = heads_for(trunk, maker, histories, window), bool(maker.residual)
        turned = trunk.ranked(trunk.window(histories), lambda state: through(state, heads, residual=residual))
        found: Floats = turned.numpy()
        return found

    return score


@torch.no_grad()
def heads_for(trunk: Recommender, maker: nn.Module, histories: Sequence[Ints], window: int = 0) -> Heads:
    """A head for every history: what the cloud does on a request."""
    maker.eval()
    ids, counts = behind(list(histories), window or trunk.shape.length)
    return {name: tensor.detach() for name, tensor in maker(trunk.items(ids), counts).items()}


def _epoch(
    trunk: Recommender, maker: nn.Module, split: Split, settings: Settings, optimiser: Any, random: np.random.Generator
) -> float:
    maker.train()
    joint, total, count = not maker.residual, 0.0, 0
    trunk.train(joint)
    for now, then, counts, target in batches(split, trunk.shape.length, settings, random):
        optimiser.zero_grad(set_to_none=True)
        heads = maker(trunk.items(then), counts)
        loss = (binary if joint else _surprise)(trunk, heads, now, target)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 5.0)
        optimiser.step()
        total, count = total + float(loss.detach()) * len(target), count + len(target)
    return total / count


def _surprise(trunk: Recommender, heads: Heads, ids: Tensor, target: Tensor) -> Tensor:
    states, among = seen(trunk, ids, target)
    return surprise(trunk, through(states, heads), among, target)


def batches(
    split: Split, length: int, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """What the device sees now; what the cloud saw when it made the head, padded behind, and how much; what follows."""
    starts, items = split.data.offsets[:-1], split.data.items
    owner = np.repeat(np.arange(split.data.users), split.data.lengths)
    place = np.arange(len(items))
    usable = np.flatnonzero((place > starts[owner]) & (place < split.train_end[owner]))
    chosen = random.permutation(usable)[: settings.samples]
    window = settings.window or length
    for begin in range(0, len(chosen), settings.batch):
        at = chosen[begin : begin + settings.batch]
        first = starts[owner[at]]
        seen = np.maximum(at - random.integers(0, settings.lag + 1, len(at)), first + 1)
        now, then, counts = (
            _window(items, first, at, length),
            _window(items, first, seen, window),
            np.minimum(seen - first, window),
        )
        turned = np.take_along_axis(then, (np.arange(window) + window - counts[:, None]) % window, 1)
        yield torch.from_numpy(now), torch.from_numpy(turned), torch.from_numpy(counts), torch.from_numpy(items[at])


def _window(items: Ints, first: Ints, at: Ints, length: int) -> Ints:
    """The `length` items before each place, from `first` on, padded with 0 in front."""
    places = at[:, None] + np.arange(-length, 0)
    return np.where(places >= first[:, None], items[np.maximum(places, 0)], 0)


def published(kind: type[Recommender], trunk: Recommender) -> tuple[Recommender, Duet]:
    """A new trunk of the same sizes that looks both ways, where it can, and the published generator for it."""
    both = type(kind.__name__, (kind,), {"causal": False})
    return both(trunk.shape), Duet(trunk.shape.width, published=True)
