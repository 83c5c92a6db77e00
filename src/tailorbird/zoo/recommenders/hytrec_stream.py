"""HyTRec event by event: what a device or a server keeps of one history in place of the history.

An event costs the same after ten events as after ten thousand. The states are those of `HyTRec.last` as long as a
history has at most the model's `length`; of a longer one the model reads the latest events only, and this remembers
all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.zoo.recommenders.hytrec import SHORT_LAYERS, HyTRec
from tailorbird.zoo.recommenders.hytrec_layers import Attention, Held, Layer, Memory, Moment


class Listener:
    """One history of a causal HyTRec, as it grows.

    Args:
        model: trained; it is put into evaluation.

    Raises:
        UsageError: a model with `freshness=write`: there an event changes what earlier ones wrote.
    """

    def __init__(self, model: HyTRec) -> None:
        if not model.causal:
            raise UsageError(
                "only freshness=decay can be followed event by event", hint="train without freshness=write"
            )
        self.model = model.eval()
        self.events: list[tuple[int, int]] = []  # the latest, with their times
        self.held: list[Held | Tensor | None] = [None] * len(model.long)
        self.long: Tensor | None = None

    @torch.no_grad()
    def hear(self, item: int, time: int = 0) -> None:
        """One event more.

        Args:
            item: from 1.
            time: in seconds, not before the last one's; 0 for all, where times are unknown.

        Raises:
            UsageError: an item the model does not know, or a step back in time.
        """
        if not 1 <= item <= self.model.shape.items or (self.events and time < self.events[-1][1]):
            hint = f"items lie between 1 and {self.model.shape.items}, and time goes on"
            raise UsageError(f"item {item} at {time}", hint=hint)
        recent = self.model.shape.recent
        # What the short branch sees, and the event that leaves it, with the one before that for its time.
        self.events = [*self.events, (item, time)][-max(SHORT_LAYERS * recent, recent + 2) :]
        at = len(self.events) - recent - 1
        if at >= 0:
            self._remember(*self.events[at], self.events[max(at - 1, 0)][1])

    @torch.no_grad()
    def state(self) -> Tensor:
        """What predicts the next event, (1, width)."""
        items = [item for item, _ in self.events][1 - SHORT_LAYERS * self.model.shape.recent :] or [0]
        x, moment = self.model._read(torch.tensor([items]), None)
        short = self.model._through(self.model.short, x, moment)[:, -1]
        long = None if self.long is None else self.long[:, -1]
        return self.model._mixed(short, long, torch.ones(1, dtype=torch.bool))

    def _remember(self, item: int, time: int, before: int) -> None:
        """An event leaves the short branch's sight for good."""
        model = self.model
        x = model.items(torch.tensor([[item]])) * math.sqrt(model.shape.width)
        gap = torch.tensor([[float(time - before)]])
        moment = Moment(torch.ones(1, 1, dtype=torch.bool), gap, torch.zeros(1, 1))
        for place, layer in enumerate(model.long):
            assert isinstance(layer, Layer)
            x, self.held[place] = _step(layer, x, moment, self.held[place])
        self.long = x


def _step(layer: Layer, x: Tensor, moment: Moment, held: Held | Tensor | None) -> tuple[Tensor, Held | Tensor]:
    """One event through a layer, x (1, 1, width), and what is kept: a memory, or the inputs attention still sees."""
    new, kept = layer.before(x), held
    if isinstance(layer.mixer, Memory):
        assert not isinstance(held, Tensor)
        mixed, kept = layer.mixer.step(new, moment, held)
    else:
        assert isinstance(layer.mixer, Attention) and not isinstance(held, Held)
        kept = new if held is None else torch.cat([held, new], 1)[:, -layer.mixer.window :]
        zeros = torch.zeros(kept.shape[:2])
        mixed = layer.mixer(kept, Moment(zeros == 0, zeros, zeros))[:, -1:]
    return layer.behind(x, mixed), kept
