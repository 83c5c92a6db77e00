"""Choosing the next token.

Vocabularies have hundreds of thousands of tokens, and a small model's forward pass takes a few milliseconds: numpy does
each step here in a fraction of one, which torch does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_COLDEST = 1e-6
_FEW = 512
_STRETCH, _LANE = 512, 64

Weights = npt.NDArray[np.float32]


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
        generator: source of chance; a drawn token takes one number of it.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: only the k most likely tokens are drawn from.
        top_p: only the fewest tokens whose probabilities reach p are drawn from (nucleus sampling, arXiv 1904.09751).
        min_p: only tokens at least p times as likely as the most likely one are drawn from (arXiv 2407.01082).
    """
    if temperature <= 0:
        return most_likely(logits)
    values = logits.numpy()
    # From the highest down, so that no temperature, however low, makes an infinity of it. In place: in a large
    # vocabulary new memory costs as much as the arithmetic.
    weights = values - values.max()
    weights /= max(temperature, _COLDEST)
    np.exp(weights, out=weights)
    if not top_k and top_p is None and min_p is None:
        return _drawn(weights, generator)
    kept = _kept(weights, top_k, top_p, min_p)
    return int(kept[_drawn(weights[kept], generator)])


def most_likely(logits: Tensor) -> int:
    """The token of the highest logit; numpy finds it several times faster than torch does in so large a vocabulary."""
    return int(logits.numpy().argmax())


def _drawn(weights: Weights, generator: torch.Generator) -> int:
    """An index, drawn by weight: where one uniform number falls in the running sum. Which stretch that is, sums of
    stretches tell several times as fast as the running sum of all."""
    whole = len(weights) // _STRETCH * _STRETCH
    sums = np.append(weights[:whole].reshape(-1, _STRETCH).sum(1), weights[whole:].sum())
    reach = np.cumsum(sums, dtype=np.float64)
    point = float(torch.rand((), generator=generator, dtype=torch.float64)) * reach[-1]
    stretch = _first_beyond(reach, point)
    before, low = float(reach[stretch - 1]) if stretch else 0.0, stretch * _STRETCH
    inside = np.cumsum(weights[low : low + _STRETCH], dtype=np.float64)
    return low + _first_beyond(inside, point - before)


def _first_beyond(reach: npt.NDArray[np.float64], point: float) -> int:
    """The first place whose running sum is greater; where rounding left none, the last that has added anything."""
    found = int(np.searchsorted(reach, point, side="right"))
    return found if found < len(reach) else int(np.searchsorted(reach, reach[-1], side="left"))


def _kept(weights: Weights, top_k: int | None, top_p: float | None, min_p: float | None) -> npt.NDArray[Any]:
    """Tokens that the limits leave, in the order of the vocabulary; of equally likely ones at the limit the first."""
    most = min(top_k or len(weights), len(weights))
    whole = float((weights if most == len(weights) else _ranked(weights, most)).sum(dtype=np.float64))
    # Mostly a few tokens hold all that counts; where they do not, all are sorted.
    for count in sorted({min(_FEW, most), most}):
        ranked = _within(_ranked(weights, count), whole, top_p, min_p)
        if len(ranked) < count:
            break
    kept = np.flatnonzero(weights >= ranked[-1])
    if surplus := len(kept) - len(ranked):
        even = np.flatnonzero(weights[kept] == ranked[-1])
        kept = np.delete(kept, even[-surplus:])
    return kept


def _ranked(weights: Weights, count: int) -> Weights:
    """The highest weights, from the highest down.

    Of lanes of some weights each, so many have one that is at least as high as the lowest of the highest lanes: only
    weights that reach that are sorted out.
    """
    lanes = weights[: len(weights) // _LANE * _LANE].reshape(_LANE, -1)
    if count < lanes.shape[1]:
        highest = lanes.max(0)
        weights = weights[weights >= np.partition(highest, len(highest) - count)[len(highest) - count]]
    highest = weights if count == len(weights) else np.partition(weights, len(weights) - count)[-count:]
    return np.sort(highest)[::-1]


def _within(ranked: Weights, whole: float, top_p: float | None, min_p: float | None) -> Weights:
    """Of weights from the highest down those that the limits leave; `top_p` is a share of `whole`."""
    count = len(ranked)
    if top_p is not None:
        count = int(np.searchsorted(np.cumsum(ranked, dtype=np.float64), top_p * whole)) + 1
    if min_p is not None:
        count = min(count, int(np.count_nonzero(ranked >= min_p * ranked[0])))
    return ranked[:count]
