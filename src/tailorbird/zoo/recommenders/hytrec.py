"""HyTRec: softmax attention over the latest events, a memory of linear cost for all before (arXiv 2602.18283).

Two branches read the items. The short one attends within the latest `recent` events. The long one has a delta memory
with gates that know time (`delta`) in most layers and attention in every `every`-th; what it holds after the event
`recent` places ago is mixed in by a gate. A history of at most `recent` events has no long part, and the model is its
short branch.

The paper's formulas could not be had; the gates follow its description. By default a state sees its past only: an event
is fresh when it is written, and what makes it old is a forgetting that runs on with the time between events, so its age
counts exactly as exp(-age / period). `freshness=write` writes old events more weakly, by their age at the end of the
history, and compares them with the mean of all: then a state knows what comes later, and only what follows a whole row
is trained. Attention in the long branch is local, or with `attention=full` over everything, at quadratic cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.hytrec_layers import Attention, Layer, Memory, Moment
from tailorbird.zoo.recommenders.model import Recommender, Shape, padded

SHORT_LAYERS = 2
AT_ONCE = 2**16  # events that are scored at once


@dataclass(frozen=True)
class HyTRecShape(Shape):
    """Sizes of HyTRec.

    Attributes:
        length: events that are looked at; time grows linearly with them.
        layers: of the long branch; the short one has two.
        recent: events of the short branch.
        every: one layer of the long branch in so many is attention.
        period: seconds that age an event as much as another event does, to begin with.
        freshness, attention: see the module.
    """

    length: int = 1000
    layers: int = 4
    recent: int = 50
    every: int = 4
    period: float = 86_400.0
    freshness: Literal["decay", "write"] = "decay"
    attention: Literal["local", "full"] = "local"

    def __post_init__(self) -> None:
        """Refuse sizes no model can have.

        Raises:
            UsageError: see above, and `Shape`.
        """
        super().__post_init__()
        good = 1 <= self.recent <= 2**16 and self.every >= 1 and math.isfinite(self.period) and self.period > 0
        good &= self.freshness in ("decay", "write") and self.attention in ("local", "full")
        if not good:
            hint = (
                "recent and every of 1 and more, a positive period, freshness decay or write, attention local or full"
            )
            raise UsageError(f"HyTRec can't have {self}", hint=hint)


class HyTRec(Recommender):
    """See the module."""

    name: ClassVar[str] = "hytrec"
    sizes: ClassVar[type[Shape]] = HyTRecShape
    timed: ClassVar[bool] = True
    shape: HyTRecShape

    def __init__(self, shape: HyTRecShape) -> None:
        super().__init__(shape)
        self.causal = shape.freshness == "decay"
        wide = shape.length if shape.attention == "full" else shape.recent
        self.short = nn.ModuleList(Layer(shape, Attention(shape, shape.recent)) for _ in range(SHORT_LAYERS))
        self.long = nn.ModuleList(
            Layer(shape, Attention(shape, wide) if i % shape.every == 0 else Memory(shape, shape.length, self.causal))
            for i in range(1, shape.layers + 1)
        )
        self.gate, self.norm = nn.Linear(2 * shape.width, shape.width), nn.LayerNorm(shape.width)
        self.dropout = Dropout(shape.dropout)

    @classmethod
    def sizes_of(cls, split: Split) -> dict[str, Any]:
        """The period is the mean time between training events. They come in bursts: by the median, a few seconds, a
        night would wipe the memory."""
        data, sizes = split.data, {"items": split.data.count}
        if data.times is None:
            return sizes
        some = split.train_end > data.offsets[:-1]  # users with training events
        first, last = data.offsets[:-1][some], split.train_end[some] - 1
        period = float((data.times[last] - data.times[first]).sum() / max(1, int((last - first).sum())))
        return sizes | {"period": max(1.0, period)}

    def states(self, ids: Tensor, times: Tensor | None = None) -> Tensor:
        """See `Recommender`.

        Args:
            ids: int64 (batch, length), padded with 0 on the left.
            times: seconds, int64 of the same shape; None: all events in one moment.
        """
        x, moment = self._read(ids, times)
        short, recent = self._through(self.short, x, moment), self.shape.recent
        if ids.shape[1] <= recent:
            return self._mixed(short, None, moment.there)
        long = self._through(self.long, x, moment)
        behind = short.new_zeros(len(ids), recent, self.shape.width)
        there = torch.cat([torch.zeros_like(moment.there[:, :recent]), moment.there[:, :-recent]], 1)
        return self._mixed(short, torch.cat([behind, long[:, :-recent]], 1), there)

    def last(self, ids: Tensor, times: Tensor | None = None) -> Tensor:
        """The last of `states`, and nothing that it does not need; for a model that is not causal, the state it is
        trained for."""
        x, moment = self._read(ids, times)
        recent, reach = self.shape.recent, SHORT_LAYERS * (self.shape.recent - 1) + 1
        short = self._through(self.short, x[:, -reach:], moment[-reach:])[:, -1]
        if ids.shape[1] <= recent:
            return self._mixed(short, None, moment.there[:, -1])
        long = self._through(self.long, x[:, :-recent], moment[:-recent])[:, -1]
        return self._mixed(short, long, moment.there[:, -recent - 1])

    def score(self, histories: Sequence[Ints], times: Sequence[Ints | None] | None = None) -> npt.NDArray[np.float32]:
        """See `Recommender`; with the times of histories, where they are known."""
        self.eval()
        out = np.empty((len(histories), self.shape.items + 1), np.float32)
        for some in self._groups([min(len(history), self.shape.length) for history in histories]):
            clock = [times[i] for i in some] if times is not None else []
            known = [time for time in clock if time is not None]
            with torch.no_grad():
                ids = self.window([histories[i] for i in some])
                state = self.last(ids, padded(known, self.shape.length) if len(known) == len(some) else None)
                out[some] = self.scores(state).numpy()
        return out

    @staticmethod
    def _groups(lengths: list[int]) -> list[list[int]]:
        """Histories of like length together, at most `AT_ONCE` events with their padding."""
        groups: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            room = groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= AT_ONCE
            if room:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def _read(self, ids: Tensor, times: Tensor | None) -> tuple[Tensor, Moment]:
        there = ids != 0
        clock = torch.zeros_like(ids) if times is None else times
        first = torch.cat([torch.zeros_like(there[:, :1]), there[:, :-1]], 1) & there
        gaps = torch.cat([torch.zeros_like(clock[:, :1]), clock[:, 1:] - clock[:, :-1]], 1) * first
        x = self.dropout(self.items(ids) * math.sqrt(self.shape.width))
        return x, Moment(there, gaps.float(), ((clock[:, -1:] - clock) * there).float())

    def _through(self, layers: nn.ModuleList, x: Tensor, moment: Moment) -> Tensor:
        for layer in layers:
            x = layer(x, moment)
        return x

    def _mixed(self, short: Tensor, long: Tensor | None, there: Tensor) -> Tensor:
        if long is None:
            alone: Tensor = self.norm(short)
            return alone
        share = torch.sigmoid(self.gate(torch.cat([short, long], -1)))
        mixed = torch.where(there[..., None], share * short + (1 - share) * long, short)
        found: Tensor = self.norm(mixed)
        return found
