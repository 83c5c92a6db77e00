"""The output head of a language model, some rows of its vocabulary at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.errors import UsageError
from tailorbird.tasks.streaming_softmax import StreamingSoftmax


class Head:
    """Some rows of a model's head at a time.

    Args:
        model: whose head it is.
        states: float32 (windows, predictions, width), what the head is given.
        rows: its rows from one to another, float32; None to read the model's.
    """

    def __init__(self, model: Model, states: Tensor, rows: Callable[[int, int], Tensor] | None = None) -> None:
        self.model, self.states, self.rows = model, states, rows
        self.part = head_part(model)
        self.cap = model.config.get("final_logit_softcapping")
        bias = f"{model.anatomy.head}.bias"
        self.bias = model.read(bias).float() if bias in model.kept() else None

    def take(self, start: int, stop: int) -> None:
        """Read rows start..stop."""
        self.weight = self.rows(start, stop) if self.rows else self.model.read_rows(self.part, start, stop).float()
        self.bias_rows = None if self.bias is None else self.bias[start:stop]

    def logits(self, tokens: slice) -> Tensor:
        """Logits of the rows in hand for some predictions, counted through all windows."""
        each = self.states.shape[1]
        index = torch.arange(tokens.start, tokens.stop)
        x = self.states[index // each, index % each]
        logits = torch.nn.functional.linear(x, self.weight, self.bias_rows)
        return logits.div_(self.cap).tanh_().mul_(self.cap) if self.cap else logits


@torch.no_grad()
def divergence(original: Head, student: Head, chunk: int) -> tuple[float, Tensor]:
    """Mean KL(original || student) of all predictions, in one pass over the vocabulary.

    Args:
        original, student: heads on the same predictions.
        chunk: rows of the vocabulary at once.

    Returns:
        Nats, and the gradient by the student's states, float32 (predictions, width).
    """
    count = student.states.shape[0] * student.states.shape[1]
    every, nowhere = slice(0, count), torch.zeros(count, dtype=torch.int64)
    p, q = StreamingSoftmax(nowhere), StreamingSoftmax(nowhere)
    gap = torch.zeros(count, dtype=torch.float64)
    wanted, given = torch.zeros(2, count, student.states.shape[-1], dtype=torch.float64)
    for start in range(0, student.part.shape[0], chunk):
        stop = min(start + chunk, student.part.shape[0])
        original.take(start, stop)
        student.take(start, stop)
        x, y = original.logits(every), student.logits(every)
        slope = 1 - (y / student.cap) ** 2 if student.cap else torch.ones(())
        (fading, likely), (waning, said) = p.add(every, start, x), q.add(every, start, y)
        gap = gap * fading + (likely * (x - y)).sum(1).double()
        wanted = wanted * fading[:, None] + ((likely * slope) @ student.weight).double()
        given = given * waning[:, None] + ((said * slope) @ student.weight).double()
    loss = gap / p.total - p.log_total() + q.log_total()
    gradient = (given / q.total[:, None] - wanted / p.total[:, None]) / count
    return float(loss.mean()), gradient.float()


def head_part(model: Model) -> Part:
    """The part the head reads: its own, or the embedding's.

    Raises:
        UsageError: the model has no head.
    """
    head = model.anatomy.head
    for part in model.parts:
        if head and head in (part.name, *part.tied):
            return part
    raise UsageError(
        f"{model.source} has no output head, so it is no language model", hint="evaluate it in your own code"
    )
