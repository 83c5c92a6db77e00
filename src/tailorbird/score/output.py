"""The model's output distribution: labels drawn from it, its gradient, and what errors of the head do to it.

The vocabulary is never in memory at once: rows of the head come in slices. In a first pass over them the sums of the
softmax grow, and with them what the head's rows are on average; by these sums a token's label is in some slice, and the
second pass looks for it there only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.tasks.head import Head
from tailorbird.tasks.streaming_softmax import StreamingSoftmax

SLICE = 16_384
TOKENS = 256
# Rows of the head that stand for all: those with most of the probability. The rest has little to lose.
ROWS = 12_288


@dataclass(frozen=True)
class Output:
    """What a model says after some tokens.

    Attributes:
        labels: drawn from its own distribution, int64 (tokens,).
        gradient: of the labels' log-likelihood with respect to what the head is given, float32 (tokens, width).
        log_total: log-sum-exp of the logits, float32 (tokens,).
    """

    labels: Tensor
    gradient: Tensor
    log_total: Tensor


@torch.no_grad()
def output(model: Model, states: Tensor, seed: int) -> Output:
    """Labels and gradients after hidden states (tokens, width)."""
    n, head = len(states), Head(model, states[None])
    slices, softmax = _slices(head.part.shape[0]), StreamingSoftmax(torch.zeros(n, dtype=torch.int64))
    mean, sums = torch.zeros(n, states.shape[1], dtype=torch.float64), []
    for start, stop in slices:
        head.take(start, stop)
        for tokens in _chunks(n):
            logits = head.logits(tokens)
            fading, likely = softmax.add(tokens, start, logits)
            mean[tokens] *= fading[:, None]
            mean[tokens] += likely.mul_(slope(head, logits)) @ head.weight
        sums.append(softmax.log_total())
    log_total, mean = sums[-1].float(), mean / softmax.total[:, None]
    point = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    below = torch.stack([torch.full_like(sums[0], -torch.inf), *sums[:-1]]).sub_(sums[-1]).exp_().float()
    within, labels = (below <= point).sum(0) - 1, torch.empty(n, dtype=torch.int64)
    for k, (start, stop) in enumerate(slices):
        here = (within == k).nonzero()[:, 0]
        few = Head(model, states[None, here])
        few.take(start, stop)
        for at in _chunks(len(here)):
            logits, drawn = few.logits(at), here[at]
            share = (logits - log_total[drawn, None]).exp_()
            inside = (share.cumsum(1) + below[k, drawn, None] <= point[drawn, None]).sum(1).clamp_max(stop - start - 1)
            labels[drawn] = inside + start
            steep = slope(few, logits).expand_as(logits).gather(1, inside[:, None])
            mean[drawn] -= steep * few.weight[inside]
    return Output(labels, mean.neg_().float(), log_total)


@torch.no_grad()
def head_losses(
    model: Model, states: Tensor, found: Output, errors: Callable[[Tensor, Tensor], list[Tensor]]
) -> Tensor:
    """Half the variance of the logits' error under the model's own distribution, mean over tokens: what a head in some
    formats costs in KL, to second order.

    Args:
        model: whose head it is.
        states: what the head is given, (tokens, width).
        found: what `output` said of them.
        errors: the errors of rows (n, width) with these indices (n,), by option.

    Returns:
        float64 (options,).
    """
    head = Head(model, states[None])
    rows = mass(head, found).topk(min(ROWS, head.part.shape[0])).indices.sort().values
    head.weight = model.gather(head.part.tensor, rows).float()
    head.bias_rows = None if head.bias is None else head.bias[rows]
    wrong = errors(head.weight, rows)
    losses = torch.zeros(len(wrong), dtype=torch.float64)
    for tokens in _chunks(len(states)):
        logits = head.logits(tokens)
        share = (logits - found.log_total[tokens, None]).exp_()
        share /= share.sum(1, keepdim=True)
        steep = slope(head, logits)
        for option, error in enumerate(wrong):
            change = (states[tokens] @ error.T).mul_(steep)
            mean = (share * change).sum(1, keepdim=True)
            losses[option] += 0.5 * (share * (change - mean).square_()).sum().double()
    return losses / len(states)


def mass(head: Head, found: Output) -> Tensor:
    """Probability of every row of a head, summed over the tokens that `found` is of, float32 (rows,)."""
    total = torch.zeros(head.part.shape[0])
    for start, stop in _slices(len(total)):
        head.take(start, stop)
        for tokens in _chunks(len(found.labels)):
            total[start:stop] += (head.logits(tokens) - found.log_total[tokens, None]).exp_().sum(0)
    return total


def slope(head: Head, logits: Tensor) -> Tensor:
    """Derivative of the logits with respect to what they were before a soft cap."""
    return 1 - (logits / head.cap).square_() if head.cap else torch.ones(1, 1)


def _slices(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + SLICE, rows)) for start in range(0, rows, SLICE)]


def _chunks(tokens: int) -> list[slice]:
    return [slice(low, min(low + TOKENS, tokens)) for low in range(0, tokens, TOKENS)]
