"""The model's output distribution: labels drawn from it, its gradient, and what errors of the head do to it.

The vocabulary is never in memory at once: rows of the head come in slices, twice. First the sums of the softmax, then
labels by inverting the distribution function, and the gradient of their log-likelihood.
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
        mass: probability of every row of the head, summed over the tokens, float32 (rows,).
        log_total: log-sum-exp of the logits, float32 (tokens,).
    """

    labels: Tensor
    gradient: Tensor
    mass: Tensor
    log_total: Tensor


@torch.no_grad()
def output(model: Model, states: Tensor, seed: int) -> Output:
    """Labels and gradients after hidden states (tokens, width)."""
    n, head = len(states), Head(model, states[None])
    rows = head.part.shape[0]
    chunks = [slice(low, min(low + TOKENS, n)) for low in range(0, n, TOKENS)]
    softmax = StreamingSoftmax(torch.zeros(n, dtype=torch.int64))
    for start, stop in _slices(rows):
        head.take(start, stop)
        for tokens in chunks:
            softmax.add(tokens, start, head.logits(tokens))
    log_total = softmax.log_total().float()
    point = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    labels, below = torch.full((n,), rows - 1), torch.zeros(n)
    gradient, mass = torch.zeros(n, states.shape[1]), torch.zeros(rows)
    for start, stop in _slices(rows):
        head.take(start, stop)
        for tokens in chunks:
            logits = head.logits(tokens)
            share = (logits - log_total[tokens, None]).exp_()
            mass[start:stop] += share.sum(0)
            above = below[tokens] + share.sum(1)
            here = ((below[tokens] <= point[tokens]) & (point[tokens] < above)).nonzero()[:, 0]
            inside = (share[here].cumsum(1) + below[tokens][here, None] <= point[tokens][here, None]).sum(1)
            inside = inside.clamp_max(stop - start - 1)
            labels[tokens.start + here] = inside + start
            share.neg_()[here, inside] += 1
            gradient[tokens] += (share * slope(head, logits)) @ head.weight
            below[tokens] = above
    # Rounding may leave a token without a label: it then has the gradient of none, which is next to nothing.
    return Output(labels, gradient, mass, log_total)


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
    rows = found.mass.topk(min(ROWS, len(found.mass))).indices.sort().values
    head.weight = model.gather(head.part.tensor, rows).float()
    head.bias_rows = None if head.bias is None else head.bias[rows]
    wrong = errors(head.weight, rows)
    losses = torch.zeros(len(wrong), dtype=torch.float64)
    for low in range(0, len(states), TOKENS):
        tokens = slice(low, min(low + TOKENS, len(states)))
        logits = head.logits(tokens)
        share = (logits - found.log_total[tokens, None]).exp_()
        share /= share.sum(1, keepdim=True)
        steep = slope(head, logits)
        for option, error in enumerate(wrong):
            change = (states[tokens] @ error.T).mul_(steep)
            mean = (share * change).sum(1, keepdim=True)
            losses[option] += 0.5 * (share * (change - mean).square_()).sum().double()
    return losses / len(states)


def slope(head: Head, logits: Tensor) -> Tensor:
    """Derivative of the logits with respect to what they were before a soft cap."""
    return 1 - (logits / head.cap).square_() if head.cap else torch.ones(1, 1)


def _slices(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + SLICE, rows)) for start in range(0, rows, SLICE)]
