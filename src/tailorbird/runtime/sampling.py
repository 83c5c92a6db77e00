"""Choosing the next token."""

from __future__ import annotations

import torch
from torch import Tensor

_COLDEST = 1e-6


def choose(
    logits: Tensor,
    generator: torch.Generator,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> int:
    """One token from logits, float32 (vocabulary,).

    Args:
        logits: of the next token.
        generator: source of chance.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: only the k most likely tokens are drawn from.
        top_p: only the fewest tokens whose probabilities reach p are drawn from (nucleus sampling, arXiv 1904.09751).
        min_p: only tokens at least p times as likely as the most likely one are drawn from (arXiv 2407.01082).
    """
    if temperature <= 0:
        return int(logits.argmax())
    # From the highest down, so that no temperature, however low, makes an infinity of it.
    values, order = ((logits - logits.max()) / max(temperature, _COLDEST)).sort(descending=True, stable=True)
    if top_k:
        values = values[:top_k]
    chances = values.softmax(dim=-1)
    if top_p is not None:
        chances = chances * (chances.cumsum(-1) - chances < top_p)
    if min_p is not None:
        chances = chances * (chances >= min_p * chances[0])
    return int(order[torch.multinomial(chances, 1, generator=generator)])
