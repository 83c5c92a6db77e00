"""The model with its blocks taken out: what happens before the first block and after the last.

The outer model is run as it is, with the blocks' forward functions replaced, so nothing about a family's masks,
positions or scaling is written down here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tailorbird.anatomy import Model

Rows = Callable[[Tensor], Tensor]


class Shell:
    """A model without its blocks.

    Calls of blocks take more than hidden states (masks, rotary tables); those depend on the batch's shape alone,
    so they are recorded once a shape by `enter` and used by `run`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.blocks = [model.module.get_submodule(name) for name in model.blocks]
        self.calls: dict[tuple[int, ...], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    def enter(self, ids: Tensor, rows: Rows) -> Tensor:
        """Token ids (batch, length) to the first block's input (batch, length, width).

        Args:
            ids: int64 token ids.
            rows: embedding rows by id; only those the batch uses are asked for.
        """
        if not self.model.anatomy.blocks:
            return ids
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        first: list[Tensor] = []

        def station(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            first.append(hidden)
            seen.append((args, kwargs))
            return hidden

        unique, index = torch.unique(ids, return_inverse=True)
        embedding = self.model.module.get_submodule(self.model.anatomy.embedding)
        with self._outside(), ExitStack() as stack:
            stack.enter_context(_parameter(embedding, rows(unique)))
            for block in self.blocks:
                stack.enter_context(_forward(block, station))
            self._call(index)
        self.calls[tuple(ids.shape)] = seen
        return first[0]

    def run(self, index: int, hidden: Tensor, replaced: Mapping[str, Tensor] | None = None) -> Tensor:
        """Block `index`, whose weights are in place, on hidden states (batch, length, width).

        Args:
            index: which block.
            hidden: what it reads.
            replaced: tensors in place of its own, by their names in the model; the output is differentiable in them.
        """
        name = self.model.blocks[index]
        inner = {key[len(name) + 1 :] if name else key: tensor for key, tensor in (replaced or {}).items()}
        if not self.model.anatomy.blocks:
            return torch.as_tensor(functional_call(self.blocks[0], inner, (hidden,)))
        args, kwargs = self.calls[tuple(hidden.shape[:2])][index]
        out = functional_call(self.blocks[index], inner, (hidden, *args), kwargs)
        return torch.as_tensor(out[0] if isinstance(out, tuple) else out)

    def leave(self, hidden: Tensor) -> Tensor:
        """Output of the last block to the head's input (batch, length, width)."""
        found: list[Tensor] = []

        def head(x: Tensor) -> Tensor:
            found.append(x)
            return x

        embedding = self.model.module.get_submodule(self.model.anatomy.embedding)
        with self._outside(), ExitStack() as stack:
            # Only the shape of what enters matters: the last block's output takes its place.
            width = self.model.parts[0].shape[1]
            stack.enter_context(_parameter(embedding, torch.zeros(1, width)))
            for i, block in enumerate(self.blocks):
                last = i == len(self.blocks) - 1
                stack.enter_context(_forward(block, lambda x, *a, _last=last, **k: hidden if _last else x))
            stack.enter_context(_forward(self.model.module.get_submodule(self.model.anatomy.head), head))
            self._call(torch.zeros(hidden.shape[:2], dtype=torch.int64))
        return found[0]

    def _call(self, ids: Tensor) -> None:
        head = self.model.module.get_submodule(self.model.anatomy.head)
        with ExitStack() as stack:
            if "forward" not in vars(head):
                stack.enter_context(_forward(head, lambda x: x))
            self.model.module(input_ids=ids, use_cache=False)

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Weights that belong to no block and are no part (norms, positions), in place for the time of a call."""
        inside = tuple(f"{name}." for name in self.model.blocks)
        packed = {self.model.anatomy.embedding, self.model.anatomy.head}
        owners = {name.rpartition(".")[0] for name in self.model.kept() if not name.startswith(inside)} - packed
        for owner in owners:
            self.model.fill(owner)
        try:
            yield
        finally:
            for owner in owners:
                self.model.drop(owner)


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _parameter(module: nn.Module, weight: Tensor) -> Iterator[None]:
    before, padding = module._parameters["weight"], getattr(module, "padding_idx", None)
    module._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    # It matters to gradients only, and it need not be among the few rows that stand for all.
    module.padding_idx = None  # type: ignore[assignment]
    try:
        yield
    finally:
        module._parameters["weight"] = before
        module.padding_idx = padding  # type: ignore[assignment]
