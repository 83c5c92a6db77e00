"""What a part in a format costs the model's own output, estimated for all parts by one pass forward and one back.

The loss is KL(original || compressed), mean over tokens in nats. To second order it is half the expected square of
the change of the log-likelihood of labels drawn from the original's own distribution (the Fisher information). For an
error dW of a part with inputs x_t and gradients g_t at its outputs that change is sum_t g_t^T dW x_t; here

    loss = 1/2 mean_t (g_t^T dW x_t)^2,

so products of different tokens are dropped: with one label a token they are mostly noise. What that leaves out is
made up for by factors measured on the model itself (`pipeline.allocation`). Rows of an embedding are the exception:
tokens that read the same row share its error, and are summed before squaring.

A block's inputs and gradients are in memory at a time (`score.backward`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.measure.shell import Shell
from tailorbird.score.backward import behind, forward, rows_used, through
from tailorbird.score.output import head_losses
from tailorbird.tasks.head import head_part

Errors = Callable[[Part, Tensor, Tensor | None], list[Tensor]]
"""Errors of some rows of a part, given with their indices (None for all): one tensor of the rows' shape an option."""
Told = Callable[[int, int], None]


def fisher(
    model: Model, windows: Tensor, errors: Errors, folder: Path, seed: int = 0, told: Told = lambda done, all_: None
) -> dict[str, list[float]]:
    """Estimated loss of every part in every option.

    Args:
        model: the original, a language model laid out in blocks.
        windows: token ids, int64 (windows, length).
        errors: what the options do to rows of a part.
        folder: for hidden states that are too many for memory.
        seed: of the labels.
        told: told about every block that is done.

    Returns:
        By part name, mean KL of a token in nats by option.

    Raises:
        UsageError: the model has no head.
    """
    head = head_part(model)
    batches = list(windows[:, None])
    shell, table = Shell(model), rows_used(model, windows)
    bounds = forward(shell, batches, table, folder)
    slopes: list[Tensor] = []
    total = torch.zeros(())
    for given, said, slope in behind(shell, bounds[-1], seed):
        total = total + len(given) * head_losses(model, given, said, lambda rows, at: errors(head, rows, at))
        slopes.append(slope)
    losses = {head.name: (total / windows.numel()).tolist()}
    for index in reversed(range(len(model.blocks))):
        parts = [part for part in model.parts if part.block == index]
        seen: dict[str, Seen] = {part.name: [] for part in parts}
        through(shell, index, bounds[index], slopes, parts, partial(_keep, seen))
        for part in parts:
            losses[part.name] = _losses(errors(part, model.weight(part), None), seen[part.name], windows.numel())
        model.drop(model.blocks[index])
        told(len(model.blocks) - index, len(model.blocks))
    for name, loss in _embedding(shell, batches, table, slopes, errors).items():
        losses[name] = [a + b for a, b in zip(loss, losses.get(name, [0.0] * len(loss)), strict=True)]
    return losses


Seen = list[tuple[Tensor, Tensor]]


def _keep(seen: Mapping[str, Seen], name: str, x: Tensor, slope: Tensor) -> None:
    seen[name].append((x.reshape(-1, x.shape[-1]), slope.reshape(-1, slope.shape[-1])))


@torch.no_grad()
def _losses(errors: Sequence[Tensor], seen: Seen, tokens: int) -> list[float]:
    return [sum(float(((x @ error.T) * g).sum(1).square().sum()) for x, g in seen) / (2 * tokens) for error in errors]


@torch.no_grad()
def _embedding(
    shell: Shell, batches: Sequence[Tensor], table: tuple[Tensor, Tensor], slopes: Sequence[Tensor], errors: Errors
) -> Mapping[str, list[float]]:
    """Losses of the embedding as an input; what stands between it and the first block is linear in its rows."""
    used, rows = table
    name = shell.model.anatomy.embedding
    wrong = errors(next(part for part in shell.model.parts if part.name == name), rows, used)
    found = [0.0] * len(wrong)
    for batch, slope in zip(batches, slopes, strict=True):
        at = torch.searchsorted(used, batch)
        right = shell.enter(batch, lambda ids: rows[torch.searchsorted(used, ids)])
        for option, error in enumerate(wrong):
            moved = shell.enter(batch, lambda ids, e=error: (rows + e)[torch.searchsorted(used, ids)])  # type: ignore[misc]
            change = torch.zeros(len(used)).index_add_(0, at.view(-1), ((moved - right) * slope).sum(-1).view(-1))
            found[option] += float(change.square().sum())
    return {name: [loss / (2 * sum(batch.numel() for batch in batches)) for loss in found]}
