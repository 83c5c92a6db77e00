"""The loop: gradient steps on a block's outputs, and the parameters of the least loss kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailorbird.kernels import dense
from tailorbird.measure.block import Block
from tailorbird.tune.quantizers import Quantizer

# How often the loss of all batches is compared while learning.
CHECKS = 4
# Steps are taken in mixed precision where that changes a block's output by less than this share of the loss at first:
# at 3 bits it ends as well, at 7 with a quarter more loss (AutoRound on a block of Gemma 3 270M).
NOISE = 0.02
Loss = Callable[[Block, int, Mapping[str, Tensor]], Tensor]


class SignSGD(torch.optim.Optimizer):
    """Steps of the learning rate's size in the direction of the gradient's sign (arXiv 1802.04434)."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=-group["lr"])


@dataclass(frozen=True)
class Reached:
    """What learning reached.

    Attributes:
        before: loss of all batches at the start.
        after: and with the parameters that were kept.
    """

    before: float
    after: float


def block_loss(block: Block, i: int, weights: Mapping[str, Tensor]) -> Tensor:
    """Squared distance of the block's outputs from the uncompressed model's, summed over batch `i`."""
    return (block.run(i, weights) - block.targets[i]).square().sum()


def augmented_loss(block: Block, i: int, weights: Mapping[str, Tensor]) -> Tensor:
    """`block_loss`, and the distance from what the uncompressed block makes of the same inputs."""
    out = block.run(i, weights)
    with torch.no_grad():
        own = block.run(i)
    return (out - block.targets[i]).square().sum() + (out - own).square().sum()


def learn(
    block: Block,
    quantizers: Mapping[str, Quantizer],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    steps: int,
    batches: int = 1,
    checks: int = CHECKS,
    decay: bool = False,
) -> Reached:
    """Learn the parameters of a block's quantizers: steps in mixed precision where they can bear it, what is kept by
    losses in float32.

    Args:
        block: the block.
        quantizers: by part name.
        optimizer: over what they learn.
        loss: of one batch.
        steps: to take.
        batches: of a step, drawn by the block's seed, each once before any comes again.
        checks: how often the loss of *all* batches is compared, the last time after the last step: a batch's own loss
            says more about the batch than about the parameters.
        decay: the learning rate falls linearly to 0.
    """
    before = least = total_loss(block, quantizers, loss)
    best = _state(quantizers)
    rates = [group["lr"] for group in optimizer.param_groups]
    order, due = _order(block), _due(steps, checks)
    precision = dense.mixed if _bearable(block, quantizers) else nullcontext

    def share(i: int, weights: Mapping[str, Tensor]) -> Tensor:
        with precision():
            return loss(block, i, weights) / before

    for step in range(steps if 0 < before < math.inf else 0):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps) if decay else rate
        _step(quantizers, optimizer, share, [next(order) for _ in range(batches)])
        block.told(step + 1, steps)
        if step + 1 in due and (now := total_loss(block, quantizers, loss)) < least:
            least, best = now, _state(quantizers)
    _restore(quantizers, best)
    return Reached(before, least)


@torch.no_grad()
def total_loss(block: Block, quantizers: Mapping[str, Quantizer], loss: Loss) -> float:
    """The loss of all batches with the weights as they would be stored now; infinite where it is no number."""
    weights = {name: quantizer.weight() for name, quantizer in quantizers.items()}
    total = sum(float(loss(block, i, weights)) for i in range(len(block.inputs)))
    return total if math.isfinite(total) else math.inf


@torch.no_grad()
def _bearable(block: Block, quantizers: Mapping[str, Quantizer]) -> bool:
    """Whether mixed precision changes the output for the first batch by little beside what it lacks."""
    weights = {name: quantizer.weight() for name, quantizer in quantizers.items()}
    exact = block.run(0, weights)
    with dense.mixed():
        rough = block.run(0, weights)
    return bool((rough - exact).square().sum() < NOISE * (exact - block.targets[0]).square().sum())


@torch.enable_grad()
def _step(
    quantizers: Mapping[str, Quantizer],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int, Mapping[str, Tensor]], Tensor],
    batches: list[int],
) -> None:
    optimizer.zero_grad()
    weights = {name: quantizer.weight() for name, quantizer in quantizers.items()}
    # The batches' gradients add up at the weights; the way from there to the parameters is walked once.
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    for i in batches:
        loss(i, leaves).backward()  # type: ignore[no-untyped-call]
    reached = [(weights[name], leaf.grad) for name, leaf in leaves.items() if leaf.grad is not None]
    torch.autograd.backward([weight for weight, _ in reached], [grad for _, grad in reached])
    optimizer.step()
    for quantizer in quantizers.values():
        quantizer.project()


def _order(block: Block) -> Iterator[int]:
    generator = block.generator()
    while True:
        yield from torch.randperm(len(block.inputs), generator=generator).tolist()


def _due(steps: int, checks: int) -> set[int]:
    """Steps after which the loss is compared."""
    return {round(steps * k / checks) for k in range(1, checks + 1)}


def _state(quantizers: Mapping[str, Quantizer]) -> list[Tensor]:
    return [parameter.detach().clone() for quantizer in quantizers.values() for parameter in quantizer.learned]


@torch.no_grad()
def _restore(quantizers: Mapping[str, Quantizer], state: list[Tensor]) -> None:
    learned = [parameter for quantizer in quantizers.values() for parameter in quantizer.learned]
    for parameter, value in zip(learned, state, strict=True):
        parameter.copy_(value)
