"""Choosing the next token."""

from __future__ import annotations

import torch
from torch import Tensor

_COLDEST = 1e-6
_FEW = 512


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
        return most_likely(logits)
    # From the highest down, so that no temperature, however low, makes an infinity of it.
    chances = ((logits - logits.max()) / max(temperature, _COLDEST)).softmax(dim=-1)
    if not top_k and top_p is None and min_p is None:
        return int(torch.multinomial(chances, 1, generator=generator))
    chances, order = _likeliest(chances, top_k, top_p, min_p)
    if top_p is not None:
        chances = chances * (chances.cumsum(-1) - chances < top_p)
    if min_p is not None:
        chances = chances * (chances >= min_p * chances[0])
    return int(order[torch.multinomial(chances, 1, generator=generator)])


def most_likely(logits: Tensor) -> int:
    """The token of the highest logit; numpy finds it several times faster than torch does in so large a vocabulary."""
    return int(logits.numpy().argmax())


def _likeliest(chances: Tensor, top_k: int | None, top_p: float | None, min_p: float | None) -> tuple[Tensor, Tensor]:
    """Chances from the highest down and their tokens, at least as many as the limits can leave.

    Sorting a whole vocabulary takes longer than a small model's forward pass; mostly a few tokens hold all that counts.
    """
    if top_k:
        values, order = chances.topk(min(top_k, len(chances)))
        return values / values.sum(), order
    values, order = chances.topk(min(_FEW, len(chances)))
    if top_p is not None and float(values.double().sum()) > top_p:
        return values, order
    if min_p is not None and float(values[-1]) < min_p * float(values[0]):
        return values, order
    return chances.sort(descending=True)
