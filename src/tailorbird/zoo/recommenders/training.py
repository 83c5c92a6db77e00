"""Training a recommender: one loop for all, chosen on validation, resumed after a kill with the same result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailorbird.kernels import dense
from tailorbird.tasks.sequences.metrics import ndcg
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.objectives import OBJECTIVES, next_items
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.tiger import Tiger

Told = Callable[["State"], None]


@dataclass
class State:
    """Where training stands.

    Attributes:
        model: as it is now.
        optimiser: likewise.
        epoch: epochs done.
        best: the tensors of the best model so far by validation.
        best_ndcg: its NDCG@10.
        log: an entry a look: epoch, loss, ndcg@10, seconds and processor seconds until then.
        seconds: spent so far.
    """

    model: Recommender
    optimiser: torch.optim.AdamW
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_ndcg: float = -1.0
    log: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def finished(self, settings: Settings) -> bool:
        """No more epochs, or no better model for too long."""
        since = self.epoch - max((row["epoch"] for row in self.log if row["best"]), default=self.epoch)
        return self.epoch >= settings.epochs or since >= settings.patience * settings.every


def begin(model: Recommender, settings: Settings) -> State:
    """A state before the first epoch."""
    optimiser = torch.optim.AdamW(
        model.parameters(), settings.rate, betas=(0.9, 0.98), weight_decay=settings.decay, fused=True
    )
    return State(model, optimiser)


@dense.fast()
def train(state: State, split: Split, settings: Settings, told: Told = lambda state: None) -> Recommender:
    """Train until validation no longer improves; the model ends with its best tensors.

    Args:
        state: from `begin`, or as it was at the end of some epoch: the result is the same.
        split: training reads its training events, and the choice its validation cases.
        settings: how.
        told: called at the end of every epoch that looked at validation; may save the state.

    Returns:
        The model of the state.

    Raises:
        DataError: vectors of a text that the data set does not have.
    """
    model = state.model
    spent = state.log[-1]["cpu_seconds"] if state.log else 0.0
    while not state.finished(settings):
        start, cpu_start = time.perf_counter(), time.process_time()
        if isinstance(model, Tiger) and not state.epoch:
            model.name_items(split, settings.vectors, settings.ids, settings.seed)
        lost = _epoch(state, split, settings)
        state.epoch += 1
        look = state.epoch % settings.every == 0 or state.epoch == settings.epochs
        found = validate(model, split) if look else 0.0
        state.seconds += time.perf_counter() - start
        spent += time.process_time() - cpu_start
        if look:
            better = found > state.best_ndcg
            if better:
                state.best_ndcg, state.best = found, {k: v.clone() for k, v in model.state_dict().items()}
            seconds = {"seconds": state.seconds, "cpu_seconds": spent}
            state.log.append({"epoch": state.epoch, "loss": lost, "ndcg@10": found, **seconds, "best": better})
            told(state)
    model.load_state_dict(state.best)
    return model.eval()


@dense.fast(exact=True)
def validate(model: Recommender, split: Split) -> float:
    """NDCG@10 on the validation cases, full ranking."""
    return float(ndcg(full_ranking(split, model.score, "validation", timed=model.timed).ranks, 10).mean())


def _epoch(state: State, split: Split, settings: Settings) -> float:
    """One pass over the training rows; every random choice follows from seed and epoch."""
    model = state.model.train()
    torch.manual_seed(settings.seed * 100_003 + state.epoch)
    total, count = 0.0, 0
    random = np.random.default_rng([settings.seed, state.epoch])
    for loss, predictions in OBJECTIVES.get(model.name, next_items)(model, split, settings, random):
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        state.optimiser.step()
        total, count = total + float(loss.detach()) * predictions, count + predictions
    return total / max(1, count)
