"""Choosing the next token.

Vocabularies have hundreds of thousands of tokens, and a small model's forward pass takes a few milliseconds: one pass
over all of them (`kernels/cpp/sampling.h`) says which few are worth a look.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.kernels import native

_COLDEST = 1e-6
_STRETCH = 128
_DRAWS = 256  # of chance, at once
# What is looked at for the most likely tokens, in turn until that is enough; the most likely one weighs 1.
_BOUNDS = (2**-4, 2**-8, 2**-12, 2**-16, 2**-24, 0.0)

Numbers = npt.NDArray[np.float32]
Places = npt.NDArray[Any]


class Weights:
    """What tokens weigh when one is drawn: exp((logit - highest logit) / temperature).

    Attributes:
        sums: float32 (stretches,) of 128 tokens each.
        tops: (stretches,) the highest of each stretch.
    """

    def __init__(self, logits: Numbers, temperature: float) -> None:
        self.logits, self.temperature = logits, temperature
        self.sums, self.tops = np.empty((2, -(-len(logits) // _STRETCH)), np.float32)
        self.native = native.extension()
        if self.native:
            self.highest = self.native.weigh(logits, temperature, self.sums, self.tops)
            return
        self.all = np.zeros((len(self.sums), _STRETCH), np.float32)
        values = self.all.reshape(-1)[: len(logits)]
        with np.errstate(invalid="ignore", over="ignore"):
            # From the highest down, so that no temperature, however low, makes an infinity of it.
            np.divide(logits - np.fmax.reduce(logits), temperature, out=values)
            np.exp(values, out=values)
        np.nan_to_num(values, copy=False, nan=0.0)
        np.sum(self.all, axis=1, out=self.sums)
        np.max(self.all, axis=1, out=self.tops)

    def of(self, stretches: Places) -> Numbers:
        """(n, 128) by token; zeros after the last token."""
        if not self.native:
            return self.all[stretches]
        found = np.empty((len(stretches), _STRETCH), np.float32)
        self.native.weights_of(self.logits, self.temperature, self.highest, stretches, found)
        return found

    def at_least(self, weight: float) -> tuple[Places, Numbers]:
        """Tokens that weigh as much, in their order, and what they weigh."""
        stretches = np.flatnonzero(self.tops >= weight)
        weights = self.of(stretches).reshape(-1)
        found = np.flatnonzero(weights >= weight)
        return stretches[found // _STRETCH] * _STRETCH + found % _STRETCH, weights[found]

    def most(self, count: int) -> Numbers:
        """The highest weights, from the highest down.

        As many stretches as are wanted have one that is at least as high as the lowest of their tops: only what
        reaches that is sorted.
        """
        lowest = np.partition(self.tops, len(self.tops) - count)[-count] if count < len(self.tops) else 0.0
        _, weights = self.at_least(lowest)
        return np.sort(weights)[::-1][:count]

    def down_to(self, enough: float, lowest: float) -> Numbers:
        """The highest weights, from the highest down: those that together weigh enough, or all down to the lowest."""
        for bound in _BOUNDS:
            _, weights = self.at_least(max(bound, lowest))
            if bound <= lowest or 0 < enough <= weights.sum(dtype=np.float64):
                break
        return np.sort(weights)[::-1]

    def drawn(self, chance: Chance) -> int:
        """A token, drawn by weight."""
        reach = np.cumsum(self.sums, dtype=np.float64)
        point = chance.random() * float(reach[-1])
        stretch = _first_beyond(reach, point)
        inside = np.cumsum(self.of(np.array([stretch]))[0], dtype=np.float64)
        return stretch * _STRETCH + _first_beyond(inside, point - (float(reach[stretch - 1]) if stretch else 0.0))


class Chance:
    """A source of chance. Its numbers are drawn many at a time: a token's weights have thrown the code that draws them
    out of the cache, so that a single one takes as long as a hundred.

    Args:
        seed: any whole number of 64 bits, below zero too.
    """

    def __init__(self, seed: int) -> None:
        self._source = np.random.Generator(np.random.PCG64(seed % 2**64))
        self._drawn: list[float] = []

    def random(self) -> float:
        """From 0 up to 1."""
        if not self._drawn:
            self._drawn = self._source.random(_DRAWS)[::-1].tolist()
        return self._drawn.pop()


def choose(
    logits: Numbers,
    chance: Chance,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> int:
    """One token from logits, float32 (vocabulary,).

    Args:
        logits: of the next token.
        chance: a drawn token takes one number of it.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: only the k most likely tokens are drawn from.
        top_p: only the fewest tokens whose probabilities reach p are drawn from (nucleus sampling, arXiv 1904.09751).
        min_p: only tokens at least p times as likely as the most likely one are drawn from (arXiv 2407.01082).
    """
    if temperature <= 0:
        return int(logits.argmax())
    numbers = logits if logits.flags.c_contiguous else np.ascontiguousarray(logits)
    temperature = max(temperature, _COLDEST)
    if top_p is not None and top_p >= 1:
        top_p = None
    unlimited = not top_k and top_p is None and min_p is None
    if unlimited and (module := native.extension()):
        return int(module.draw(numbers, temperature, chance.random()))
    weights = Weights(numbers, temperature)
    if unlimited:
        return weights.drawn(chance)
    tokens, chances = _left(weights, top_k if top_k and top_k < len(logits) else None, top_p, min_p)
    reach = np.cumsum(chances, dtype=np.float64)
    return int(tokens[_first_beyond(reach, chance.random() * float(reach[-1]))])


def _first_beyond(reach: npt.NDArray[np.float64], point: float) -> int:
    """The first place whose running sum is greater; where rounding left none, the last that has added anything."""
    found = int(np.searchsorted(reach, point, side="right"))
    return found if found < len(reach) else int(np.searchsorted(reach, reach[-1], side="left"))


def _left(weights: Weights, top_k: int | None, top_p: float | None, min_p: float | None) -> tuple[Places, Numbers]:
    """Tokens that the limits leave, in the order of the vocabulary, and what they weigh; of equally likely ones at the
    limit the first."""
    if top_k:
        ranked = weights.most(top_k)
        enough = (top_p or 0) * float(ranked.sum(dtype=np.float64))
    else:
        enough = (top_p or 0) * float(weights.sums.sum(dtype=np.float64))
        ranked = weights.down_to(enough, min_p or 0)
    count = len(ranked)
    if top_p is not None:
        count = min(count, int(np.searchsorted(np.cumsum(ranked, dtype=np.float64), enough)) + 1)
    if min_p is not None:
        count = min(count, int(np.count_nonzero(ranked >= min_p * ranked[0])))
    tokens, chances = weights.at_least(ranked[count - 1])
    if surplus := len(tokens) - count:
        even = np.flatnonzero(chances == ranked[count - 1])[-surplus:]
        tokens, chances = np.delete(tokens, even), np.delete(chances, even)
    return tokens, chances
