"""Statistics of a part's inputs, kept while calibration data runs through its block.

Keyed by part and pass: a looped block meets its parts several times in one forward pass, and each pass has its own
inputs. Parts that read the same tensor (query, key and value; gate and up) share one collector.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.errors import DataError
from tailorbird.fit.hessian import sweep_factor

# ``gram``, ``inputs``, ``drift``: of every part, see `Stats`. ``block``: the block as a whole, with which
# `Method.transform` and `Method.tune` are called. ``reference``: what the uncompressed model has behind the block, too.
Need = str
SAMPLE = 1024
# Columns of a Gram matrix that are summed at once, to the right of its diagonal only.
STRIPE = 256


@dataclass
class Stats:
    """What measuring kept for one part.

    Attributes:
        gram: H = sum over tokens of x x^T, float32 (cols, cols); None when nobody asked. Where tokens have weights, so
            have the terms of this sum and of `drift`.
        inputs: tokens taken evenly from all batches, float32 (at most `SAMPLE`, cols); None when nobody asked.
        count: tokens seen.
        drift: D = sum of (y - x) x^T, where y is what the uncompressed model's part reads in place of x, float32 (cols,
            cols); None when nobody asked, or where x does not come straight from the residual stream.
    """

    gram: Tensor | None = None
    inputs: Tensor | None = None
    count: int = 0
    drift: Tensor | None = None
    _factors: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def factor(self, damp: float) -> tuple[Tensor, Tensor]:
        """`sweep_factor` of the Gram matrix, computed once for all parts that share it.

        Raises:
            DataError: no Gram matrix was measured, or it is not finite.
        """
        if damp not in self._factors:
            self._factors = {damp: sweep_factor(measured(self.gram), damp)}
        return self._factors[damp]

    def add(
        self,
        x: Tensor,
        needs: Iterable[Need],
        take: int,
        original: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Add inputs.

        Args:
            x: (..., cols).
            needs: what is kept. Of the Gram matrix only the half on the diagonal's right is summed: `finish` mirrors
                it.
            take: of so many tokens one is kept as a sample.
            original: what the original reads of the same tokens.
            weights: what each of them counts in the sums, (tokens,); all alike without.
        """
        x = x.reshape(-1, x.shape[-1]).float()
        sample, root = x, None if weights is None else weights.sqrt()[:, None]
        x = x if root is None else x * root
        if original is not None:
            gap = original.reshape(x.shape).float() * (1 if root is None else root) - x
            self.drift = gap.T @ x if self.drift is None else self.drift.addmm_(gap.T, x)
        # Counted through all batches: short ones must not add a token each.
        start = -self.count % take
        self.count += x.shape[0]
        if "gram" in needs:
            if self.gram is None:
                self.gram = torch.zeros(x.shape[1], x.shape[1])
            for i in range(0, x.shape[1], STRIPE):
                self.gram[i : i + STRIPE, i:].addmm_(x[:, i : i + STRIPE].T, x[:, i:])
        if "inputs" in needs:
            some = sample[start::take].clone()
            self.inputs = some if self.inputs is None else torch.cat([self.inputs, some])

    def divided(self, scales: Tensor) -> Stats:
        """The statistics of the same inputs with every channel divided by its scale, float32 (cols,)."""
        sides = scales[:, None] * scales
        gram, drift = (None if some is None else some / sides for some in (self.gram, self.drift))
        return Stats(gram, None if self.inputs is None else self.inputs / scales, self.count, drift)

    def finish(self) -> Stats:
        """All inputs were added: itself, with the whole Gram matrix."""
        if self.gram is not None:
            for i in range(STRIPE, len(self.gram), STRIPE):
                self.gram[i:, i - STRIPE : i] = self.gram[i - STRIPE : i, i:].T
        return self


def measured(statistic: Tensor | None) -> Tensor:
    """A statistic a method can't do without.

    Raises:
        DataError: it was not measured.
    """
    if statistic is None:
        raise DataError(
            "this method needs calibration statistics and has none",
            hint="do not leave out calibration data",
        )
    return statistic


def merged(passes: Iterable[Stats]) -> Stats:
    """The statistics of all passes of one part together, each token counting once."""
    found = list(passes)
    if len(found) == 1:
        return found[0]
    grams = [stats.gram for stats in found if stats.gram is not None]
    inputs = [stats.inputs for stats in found if stats.inputs is not None]
    drifts = [stats.drift for stats in found if stats.drift is not None]
    gram, drift = (torch.stack(some).sum(0) if some else None for some in (grams, drifts))
    return Stats(gram, torch.cat(inputs) if inputs else None, sum(stats.count for stats in found), drift)


class Collector(AbstractContextManager["Collector"]):
    """Listens to the inputs of some modules while it is open.

    What comes behind the last of them need not be computed: once a forward pass has called each of them once, later
    passes end there.

    Args:
        modules: by name.
        needs: what is kept.
        tokens: how many will come.
        paired: names of modules that read the same tokens in the uncompressed model, whose inputs `original` hears.

    Attributes:
        stats: by (module name, pass).
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], needs: frozenset[Need], tokens: int, paired: Container[str] = ()
    ) -> None:
        self.modules, self.needs, self.paired = modules, needs, paired
        self.take = max(1, -(-tokens // SAMPLE))
        self.stats: dict[tuple[str, int], Stats] = {}
        self._calls: dict[str, int] = {}
        self._once = False
        self._last: tuple[Tensor | None, Stats] = (None, Stats())
        self._stack = ExitStack()
        self._original: dict[tuple[str, int], Tensor] = {}
        self._weights: Mapping[str, Tensor] = {}
        self._aside = False

    def __enter__(self) -> Collector:
        """Start listening."""
        for name, module in self.modules.items():
            hook = module.register_forward_pre_hook(self._hook(name))
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop listening."""
        self._last = (None, Stats())
        self._stack.close()

    @contextmanager
    def batch(self, weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """One forward pass, in which passes through a module are counted from zero. `weights`: what its tokens count,
        by module name; those that read the same tensor share statistics only without."""
        self._calls, self._weights = {}, weights or {}
        with suppress(_Enough):
            yield
        self._once = set(self._calls) == set(self.modules) and set(self._calls.values()) == {1}
        self._original = {}

    @contextmanager
    def original(self) -> Iterator[None]:
        """A whole forward pass of the uncompressed model over the tokens of the next `batch`."""
        self._calls, self._aside = {}, True
        yield
        self._aside = False

    def of(self, name: str) -> Stats:
        """Statistics of one module over all passes.

        Raises:
            DataError: the calibration data never reached it.
        """
        passes = [
            stats.finish()
            for (module, _), stats in sorted(self.stats.items(), key=lambda item: item[0])
            if module == name
        ]
        if not passes:
            raise DataError(f"calibration data never reached {name}", hint="use more, or more varied, calibration text")
        return merged(passes)

    def _hook(self, name: str) -> Any:
        def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            number = self._calls.get(name, 0)
            self._calls[name] = number + 1
            if self._aside:
                if name in self.paired:
                    self._original[name, number] = inputs[0]
                return
            self._collect((name, number), inputs[0])
            if self._once and len(self._calls) == len(self.modules):
                raise _Enough

        return seen

    def _collect(self, key: tuple[str, int], x: Tensor) -> None:
        (tensor, owner), weights = self._last, self._weights.get(key[0])
        if weights is None and tensor is x and self.stats.setdefault(key, owner) is owner:
            # The same tensor as its neighbour read: one collector serves both, and it is already fed.
            return
        mine = self.stats.setdefault(key, Stats())
        mine.add(x, self.needs, self.take, self._original.get(key), weights)
        self._last = (x, mine) if weights is None else (None, mine)


class _Enough(Exception):
    """Everything that is listened to was heard."""
