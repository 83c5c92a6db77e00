"""The output head of a language model, some rows of its vocabulary at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.errors import UsageError


class Head:
    """Some rows of a model's head at a time.

    Args:
        model: whose head it is.
        states: float32 (windows, predictions, width), what the head is given.
    """

    def __init__(self, model: Model, states: Tensor) -> None:
        self.model, self.states = model, states
        self.part = head_part(model)
        self.cap = model.config.get("final_logit_softcapping")
        bias = f"{model.anatomy.head}.bias"
        self.bias = model.read(bias).float() if bias in model.kept() else None

    def take(self, start: int, stop: int) -> None:
        """Read rows start..stop."""
        self.weight = self.model.read_rows(self.part, start, stop).float()
        self.bias_rows = None if self.bias is None else self.bias[start:stop]

    def logits(self, tokens: slice) -> Tensor:
        """Logits of the rows in hand for some predictions, counted through all windows."""
        each = self.states.shape[1]
        index = torch.arange(tokens.start, tokens.stop)
        x = self.states[index // each, index % each]
        logits = torch.nn.functional.linear(x, self.weight, self.bias_rows)
        return logits.div_(self.cap).tanh_().mul_(self.cap) if self.cap else logits


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
