"""What a part in a format costs the model's own output, estimated for all parts by one pass forward and one back.

The loss is KL(original || compressed), mean over tokens in nats. To second order it is half the expected square of
the change of the log-likelihood of labels drawn from the original's own distribution (the Fisher information). For an
error dW of a part with inputs x_t and gradients g_t at its outputs that change is sum_t g_t^T dW x_t; here

    loss = 1/2 mean_t (g_t^T dW x_t)^2,

so products of different tokens are dropped: with one label a token they are mostly noise. What that leaves out is
made up for by factors measured on the model itself (`pipeline.allocation`). Rows of an embedding are the exception:
tokens that read the same row share its error, and are summed before squaring.

One block's weights and its tokens' inputs and gradients are in memory at a time; hidden states between blocks are
kept, on disk where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model, Part
from tailorbird.measure.shell import Shell
from tailorbird.measure.states import States
from tailorbird.score.output import Output, head_losses, output
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
    shell, table = Shell(model), _table(model, windows)
    bounds = _forward(shell, batches, table, folder)
    losses, slopes = _head(shell, bounds[-1], head, errors, seed, windows.numel())
    for index in reversed(range(len(model.blocks))):
        parts = [part for part in model.parts if part.block == index]
        slopes, found = _block(shell, index, bounds[index], slopes, parts)
        for part in parts:
            losses[part.name] = _losses(errors(part, model.weight(part), None), found[part.name], windows.numel())
        model.drop(model.blocks[index])
        told(len(model.blocks) - index, len(model.blocks))
    for name, loss in _embedding(shell, batches, table, slopes, errors).items():
        losses[name] = [a + b for a, b in zip(loss, losses.get(name, [0.0] * len(loss)), strict=True)]
    return losses


def _table(model: Model, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids that are used, and their embedding rows."""
    used = torch.unique(windows)
    return used, model.gather(f"{model.anatomy.embedding}.weight", used).float()


@torch.no_grad()
def _forward(shell: Shell, batches: Sequence[Tensor], table: tuple[Tensor, Tensor], folder: Path) -> list[States]:
    """Hidden states in front of every block, and behind the last."""
    used, rows = table
    entered = [shell.enter(batch, lambda ids: rows[torch.searchsorted(used, ids)]) for batch in batches]
    bounds = [States(entered, folder / "0")]
    for index, name in enumerate(shell.model.blocks):
        shell.model.fill(name)
        after = [shell.run(index, bounds[-1][i]) for i in range(len(batches))]
        bounds.append(States(after, folder / str(index + 1)))
        shell.model.drop(name)
    return bounds


def _head(
    shell: Shell, states: States, head: Part, errors: Errors, seed: int, tokens: int
) -> tuple[dict[str, list[float]], list[Tensor]]:
    """The head's own losses, and gradients behind the last block."""
    slopes: list[Tensor] = []
    total = torch.zeros(())
    for i in range(len(states)):
        hidden = states[i].requires_grad_()
        given = shell.leave(hidden)
        flat = given.detach().reshape(-1, given.shape[-1])
        found: Output = output(shell.model, flat, seed + i)
        total = total + len(flat) * head_losses(shell.model, flat, found, lambda rows, at: errors(head, rows, at))
        slopes.append(torch.autograd.grad(given, hidden, found.gradient.view_as(given))[0])
    return {head.name: (total / tokens).tolist()}, slopes


Seen = list[tuple[Tensor, Tensor]]


def _block(
    shell: Shell, index: int, states: States, slopes: list[Tensor], parts: Sequence[Part]
) -> tuple[list[Tensor], dict[str, Seen]]:
    """Gradients in front of a block; inputs and gradients at the outputs of its parts, (tokens, cols or rows)."""
    shell.model.fill(shell.model.blocks[index])
    seen: dict[str, Seen] = {part.name: [] for part in parts}
    before = []
    with ExitStack() as stack:
        for name in seen:
            hook = shell.model.module.get_submodule(name).register_forward_hook(_listen(seen[name]))
            stack.callback(hook.remove)
        for i in range(len(states)):
            hidden = states[i].detach().requires_grad_()
            before.append(torch.autograd.grad(shell.run(index, hidden), hidden, slopes[i])[0])
    return before, seen


def _listen(seen: Seen) -> Any:
    def heard(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        out.register_hook(  # type: ignore[no-untyped-call]
            lambda g: seen.append((x, g.reshape(-1, g.shape[-1])))
        )

    return heard


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
