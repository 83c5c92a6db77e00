"""What predictions through heads lose: surprise under a softmax over the catalogue, or over a sample of it where every
candidate has a state of its own; in the published form, a yes or no for a few candidates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.tailor.duet import Heads, through
from tailorbird.zoo.recommenders.din import DIN
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.objectives import softmax_of_first

NEGATIVES = 4  # a positive, for the published loss
SOME = 128  # a positive, for a trunk whose states depend on the candidate


def seen(
    trunk: Recommender, ids: Tensor, target: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor | None]:
    """States that heads map, and the candidates they are towards.

    Args:
        trunk: frozen.
        ids: windows of events, int64 (batch, length).
        target: what followed, int64 (batch,).
        generator: draws candidates; None for torch's own.

    Returns:
        (batch, width) and None; or (batch, candidates, width) and int64 (batch, candidates), the target first.
    """
    with torch.no_grad():
        if not isinstance(trunk, DIN):
            return trunk.last(ids), None
        among = with_some(trunk, target, SOME, generator)
        return trunk.towards(ids, among), among


def surprise(trunk: Recommender, mapped: Tensor, among: Tensor | None, target: Tensor) -> Tensor:
    """Mean surprise in nats of targets after the states of `seen`, mapped by heads."""
    if among is None:
        return trunk.surprise(mapped, target)
    return softmax_of_first((trunk.items(among) * mapped).sum(2), among)


def binary(trunk: Recommender, heads: Heads, ids: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the target and `NEGATIVES` others, as DUET published it: what the head makes of the state
    takes its place, and the trunk learns too."""
    if isinstance(trunk, DIN):
        among = with_some(trunk, target, NEGATIVES)
        state = trunk.towards(ids, among)
    else:
        state = trunk.last(ids)[:, None]
        among = with_some(trunk, target, NEGATIVES)
    logits = (trunk.items(among) * through(state, heads, residual=False)).sum(2)
    labels = functional.one_hot(torch.zeros(len(logits), dtype=torch.int64), logits.shape[1]).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, labels)


def with_some(trunk: Recommender, target: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Every target and `count` uniform items behind it, int64 (batch, 1 + count)."""
    drawn = torch.randint(1, trunk.shape.items + 1, (len(target), count), generator=generator)
    return torch.cat([target[:, None], drawn], 1)
