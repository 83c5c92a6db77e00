"""What tailoring has to beat: the same head, trained on each user's own events by gradient steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tailorbird.tailor.duet import through
from tailorbird.tailor.head import NAMES
from tailorbird.tailor.loss import seen, surprise
from tailorbird.tailor.manifest import Floats
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.zoo.recommenders.model import Recommender


def finetuned(
    trunk: Recommender,
    start: Mapping[str, Tensor],
    histories: Sequence[Ints],
    *,
    events: int = 50,
    steps: int = 10,
    rate: float = 1e-3,
) -> dict[str, Floats]:
    """A head for every history, by Adam on its own latest events, all of them in every step; where the trunk's states
    depend on the candidate, among a sample of candidates.

    Args:
        trunk: frozen.
        start: the head to begin with.
        histories: items of a user, oldest first.
        events: how many of the latest are predicted.
        steps: of Adam; 0 gives `start`.
        rate: likewise.

    Returns:
        Tensors (histories, ...).
    """
    made = [_one(trunk, start, history, events, steps, rate) for history in histories]
    return {name: np.stack([head[name] for head in made]) for name in NAMES}


def _one(
    trunk: Recommender, start: Mapping[str, Tensor], history: Ints, events: int, steps: int, rate: float
) -> dict[str, Floats]:
    head = {name: start[name].detach().clone()[None].requires_grad_() for name in NAMES}
    places = range(max(1, len(history) - events), len(history))
    if len(places):
        target = torch.from_numpy(np.ascontiguousarray(history[places.start :]))
        # Of every user's own, so that a head does not depend on whose heads are made with it.
        generator = torch.Generator().manual_seed(0)
        states, among = seen(trunk, trunk.window([history[:place] for place in places]), target, generator)
        optimiser = torch.optim.Adam(head.values(), rate)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            mapped = through(
                states, {name: value.expand(len(states), *value.shape[1:]) for name, value in head.items()}
            )
            surprise(trunk, mapped, among, target).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return {name: value.detach()[0].numpy() for name, value in head.items()}
