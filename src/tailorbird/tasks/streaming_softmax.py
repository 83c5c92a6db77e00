"""Softmax over a vocabulary that is never in memory at once: rows of the head come in chunks, whose sums are added in
float64."""

from __future__ import annotations

import torch
from torch import Tensor


class StreamingSoftmax:
    """Running log-sum-exp (Milakov and Gimelshein, arXiv 1805.02867, algorithm 3), target logit and largest logit
    of n tokens.

    Attributes:
        choice: int64 (n,), the vocabulary entry with the largest logit seen so far; the first of equal ones.
    """

    def __init__(self, targets: Tensor) -> None:
        """Start for tokens whose right answers are `targets`, int64 (n,)."""
        self.targets = targets
        self.choice = torch.zeros_like(targets)
        self._top = torch.full(targets.shape, -torch.inf)
        self._total = torch.zeros(targets.shape, dtype=torch.float64)
        self._target = torch.zeros(targets.shape)

    def add(self, tokens: slice, start: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Take in logits of some tokens for the vocabulary entries from `start` on, float32 (n, entries).

        Returns:
            What earlier sums of these tokens are to be multiplied by, float64 (n,), and exp(logit - largest so
            far), float32 (n, entries).
        """
        before = self._top[tokens]
        value, index = logits.max(dim=-1)
        top = torch.maximum(before, value)
        factor = (before - top).double().exp()
        weights = (logits - top[:, None]).exp_()
        self.choice[tokens] = torch.where(value > before, index + start, self.choice[tokens])
        self._top[tokens] = top
        self._total[tokens] = self._total[tokens] * factor + weights.sum(dim=-1).double()
        at = self.targets[tokens] - start
        inside = ((at >= 0) & (at < logits.shape[1])).nonzero()[:, 0]
        self._target[tokens.start + inside] = logits[inside, at[inside]]
        return factor, weights

    @property
    def total(self) -> Tensor:
        """Sum of exp(logit - largest), float64 (n,)."""
        return self._total

    def log_total(self) -> Tensor:
        """Log-sum-exp of the logits, float64 (n,)."""
        return self._top.double() + self._total.log()

    def nll(self) -> Tensor:
        """Negative log-likelihood of the targets in nats, float64 (n,)."""
        return self.log_total() - self._target.double()


class StreamingDivergence:
    """KL(p || q) in nats for n tokens: sum p (x - y) - log_total(x) + log_total(y), x and y the logits of p and q."""

    def __init__(self, p: StreamingSoftmax, q: StreamingSoftmax) -> None:
        self.p, self.q = p, q
        self._sum = torch.zeros_like(p.total)

    def add(self, tokens: slice, start: int, x: Tensor, y: Tensor) -> None:
        """Take in both models' logits of some tokens, float32 (n, entries); the logits are used up."""
        factor, weights = self.p.add(tokens, start, x)
        self.q.add(tokens, start, y)
        terms = weights.mul_(x.sub_(y)).sum(dim=-1).double()
        self._sum[tokens] = self._sum[tokens] * factor + terms

    def value(self) -> Tensor:
        """Float64 (n,); rounding below zero is cut."""
        gap = self._sum / self.p.total
        return (gap - self.p.log_total() + self.q.log_total()).clamp_min(0)
