"""One pass forward and one back through the original, block by block: gradients of the log-likelihood of labels that
are drawn from its own distribution.

One block's weights are in memory at a time. Hidden states between blocks are kept, on disk where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model, Part
from tailorbird.measure.shell import Shell
from tailorbird.measure.states import SPILL_BYTES, States
from tailorbird.score.output import Output, output

Heard = Callable[[str, Tensor, Tensor], object]
"""Told, for one pass of a window through a part, its name, what it reads (..., cols) and the gradient at what it gives
(..., rows)."""


def rows_used(model: Model, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids that are used, and their embedding rows."""
    used = torch.unique(windows)
    return used, model.gather(f"{model.anatomy.embedding}.weight", used).float()


@torch.no_grad()
def forward(
    shell: Shell, batches: Sequence[Tensor], table: tuple[Tensor, Tensor], folder: Path, limit: int = SPILL_BYTES
) -> list[States]:
    """Hidden states in front of every block, and behind the last; those of one place are in memory up to `limit`
    bytes."""
    used, rows = table
    entered = [shell.enter(batch, lambda ids: rows[torch.searchsorted(used, ids)]) for batch in batches]
    bounds = [States(entered, folder / "0", limit)]
    for index, name in enumerate(shell.model.blocks):
        shell.model.fill(name)
        after = [shell.run(index, bounds[-1][i]) for i in range(len(batches))]
        bounds.append(States(after, folder / str(index + 1), limit))
        shell.model.drop(name)
    return bounds


def behind(shell: Shell, states: States, seed: int) -> Iterator[tuple[Tensor, Output, Tensor]]:
    """By window: what the head reads (tokens, width), what it says of it, and the gradient behind the last block."""
    for i in range(len(states)):
        hidden = states[i].requires_grad_()
        given = shell.leave(hidden)
        flat = given.detach().reshape(-1, given.shape[-1])
        found = output(shell.model, flat, seed + i)
        yield flat, found, torch.autograd.grad(given, hidden, found.gradient.view_as(given))[0]


def through(
    shell: Shell, index: int, states: States, slopes: list[Tensor], parts: Sequence[Part], heard: Heard
) -> None:
    """Move gradients from behind a block to before it; its weights stay in place."""
    shell.model.fill(shell.model.blocks[index])
    with ExitStack() as stack:
        for part in parts:
            hook = shell.model.module.get_submodule(part.name).register_forward_hook(_listen(part.name, heard))
            stack.callback(hook.remove)
        for i in range(len(states)):
            hidden = states[i].detach().requires_grad_()
            slopes[i] = torch.autograd.grad(shell.run(index, hidden), hidden, slopes[i])[0]


def _listen(name: str, heard: Heard) -> Any:
    def called(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        out.register_hook(lambda slope: heard(name, inputs[0].detach(), slope))  # type: ignore[no-untyped-call]

    return called
