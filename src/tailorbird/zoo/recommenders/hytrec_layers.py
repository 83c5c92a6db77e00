"""The layers of HyTRec: attention within a window, and a delta memory whose gates know time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.zoo.recommenders.delta import chunked, recurrent
from tailorbird.zoo.recommenders.dropout import Dropout
from tailorbird.zoo.recommenders.model import Shape

MAX_AGE = 50.0  # periods, and the most that one event may forget: exp(-50) is nothing
SHORTEST = 16  # events that the most forgetful head remembers, to begin with


@dataclass(frozen=True)
class Moment:
    """When events were, each (batch, length).

    Attributes:
        there: bool; false at pads.
        gaps: seconds since the event before; 0 for the first.
        ages: seconds until the end of the history.
    """

    there: Tensor
    gaps: Tensor
    ages: Tensor

    def __getitem__(self, some: slice) -> Moment:
        """Of some events."""
        return Moment(self.there[:, some], self.gaps[:, some], self.ages[:, some])


class Layer(nn.Module):
    """A mixer of events and a feed-forward, each normalised before and with a residual."""

    def __init__(self, shape: Shape, mixer: nn.Module) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.mixer = mixer
        self.up, self.down = nn.Linear(shape.width, 2 * shape.width), nn.Linear(2 * shape.width, shape.width)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Tensor, moment: Moment) -> Tensor:
        """x (batch, length, width)."""
        return self.behind(x, self.mixer(self.before(x), moment))

    def behind(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows the mixer."""
        x = x + self.dropout(mixed)
        out: Tensor = x + self.dropout(self.down(torch.relu(self.up(self.between(x)))))
        return out


class Attention(nn.Module):
    """Softmax attention of every event to itself and those before it, `window` in all, with a weight a distance. In
    blocks of one window that see the block before, so the cost is linear in the length."""

    def __init__(self, shape: Shape, window: int) -> None:
        super().__init__()
        self.heads, self.window = shape.heads, window
        self.qkv, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.distance = nn.Parameter(torch.zeros(shape.heads, window))

    def forward(self, x: Tensor, moment: Moment) -> Tensor:
        """See `Layer`."""
        batch, length, width = x.shape
        size = min(self.window, length)
        more = -length % size
        qkv = functional.pad(self.qkv(x), (0, 0, 0, more)).view(batch, -1, size, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)
        there = functional.pad(moment.there, (0, more)).view(batch, 1, -1, 1, size)
        if length > size:
            k, v = (torch.cat([functional.pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t], 3) for t in (k, v))
            there = torch.cat([functional.pad(there, (0, 0, 0, 0, 1, 0))[:, :, :-1], there], 4)
        back = torch.arange(size)[:, None] + k.shape[3] - size - torch.arange(k.shape[3])
        near = (back >= 0) & (back < self.window)
        logits = q @ k.transpose(3, 4) / math.sqrt(q.shape[4])
        logits = logits + self.distance[:, back.clamp(0, self.window - 1)][None, :, None]
        mixed = logits.masked_fill(~(near & (there | (back == 0))), -torch.inf).softmax(4) @ v
        out: Tensor = self.out(mixed.permute(0, 2, 3, 1, 4).reshape(batch, -1, width)[:, :length])
        return out


@dataclass(frozen=True)
class Held:
    """What a `Memory` keeps of one history.

    Attributes:
        memory: (1, heads, d, d).
        total: sum of its inputs, (1, 1, width).
        count: of them.
    """

    memory: Tensor
    total: Tensor
    count: int


class Memory(nn.Module):
    """A delta memory a head. How much an event writes follows from its content and from how it differs from the mean;
    how much is forgotten before, from its content and the time since the event before.

    Args:
        shape: sizes, with a `period`.
        horizon: events that the least forgetful head remembers, to begin with.
        causal: see `hytrec`.
    """

    def __init__(self, shape: Shape, horizon: int, causal: bool) -> None:
        super().__init__()
        width, heads = shape.width, shape.heads
        self.heads, self.causal = heads, causal
        self.qkv, self.z = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.strength, self.content = nn.Linear(width, heads), nn.Linear(2 * width, heads)
        self.fade = nn.Linear(width, heads)
        rates = 1 / torch.logspace(math.log10(SHORTEST), math.log10(max(horizon, SHORTEST)), heads)
        with torch.no_grad():
            self.fade.weight.mul_(0.1)
            self.fade.bias.copy_(rates.expm1().log())  # softplus of it is the rate
        self.period = nn.Parameter(torch.full((heads,), math.log(shape.period)))  # type: ignore[attr-defined]
        self.share = nn.Parameter(torch.zeros(heads))
        self.scale, self.out = nn.Parameter(torch.ones(width // heads)), nn.Linear(width, width)

    def forward(self, x: Tensor, moment: Moment) -> Tensor:
        """See `Layer`."""
        q, k, v = self._asked(x)
        read, _ = chunked(q, k, v, *self.gates(x, moment))
        return self._told(read, x)

    def step(self, x: Tensor, moment: Moment, held: Held | None) -> tuple[Tensor, Held]:
        """One event more, x (1, 1, width), of a causal memory: what `forward` gives at its place, and what to keep."""
        total, count = (x, 1) if held is None else (held.total + x, held.count + 1)
        q, k, v = self._asked(x)
        gates = self.gates(x, moment, total / count)
        read, memory = recurrent(q, k, v, *gates, state=None if held is None else held.memory)
        return self._told(read, x), Held(memory, total, count)

    def _asked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return functional.normalize(q, dim=3), functional.normalize(k, dim=3), v

    def _told(self, read: Tensor, x: Tensor) -> Tensor:
        read = functional.rms_norm(read, read.shape[3:], self.scale, 1e-6).transpose(1, 2).flatten(2)
        out: Tensor = self.out(read * functional.silu(self.z(x)))
        return out

    def gates(self, x: Tensor, moment: Moment, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What an event writes, 0 .. 1, and the logarithm of what is kept before it, at most 0; (batch, heads, length).
        Pads write nothing and forget nothing. The mean is known where x is not the whole history."""
        there = moment.there[:, :, None]
        mean = self._mean(x * there, there) if mean is None else mean
        content = torch.sigmoid(self.content(torch.cat([x, x - mean], 2)))
        fresh = torch.ones_like(content)
        if not self.causal:
            fresh = torch.exp(-(moment.ages[:, :, None] / self.period.exp()).clamp(max=MAX_AGE))
        share = torch.sigmoid(self.share)
        write = torch.sigmoid(self.strength(x)) * (share * fresh + (1 - share) * content) * there
        passed = 1 + moment.gaps[:, :, None] / self.period.exp()
        forget = -(functional.softplus(self.fade(x)) * passed).clamp(max=MAX_AGE) * there
        return write.transpose(1, 2), forget.transpose(1, 2)

    def _mean(self, x: Tensor, there: Tensor) -> Tensor:
        """Of the events so far; of all, if not causal."""
        if self.causal:
            return x.cumsum(1) / there.cumsum(1).clamp(min=1)
        return x.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
