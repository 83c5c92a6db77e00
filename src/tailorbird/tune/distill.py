"""Distillation: a finished model learns, end to end, to predict as the original does, while its codes stay.

Learned are a factor for every row of the weights inside the blocks, and the vectors beside them (gains of norms,
biases). All of that is stored anyway, so not a byte is added. This is the second phase of EfficientQAT (arXiv
2407.11062, section 3.3) with three departures: a row has one factor, where they learn every group's scale; the target
is what the original predicts, and not the text's own next word, as calibration text is short; vectors are learned too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model
from tailorbird.formats import PackedWeight
from tailorbird.kernels import dense
from tailorbird.measure.shell import Shell
from tailorbird.tasks.head import Head, divergence, head_part
from tailorbird.tasks.language import Reference

# Adam's learning rates of factors and of vectors, falling linearly to nothing; over the first steps they rise.
FACTORS, VECTORS, WARM = 3e-3, 3e-4, 10
# Predictions of a window that a step compares, and those of a window held back.
PREDICTIONS, COMPARED = 64, 128
# Every so many windows one is held back: passes are compared by it.
HELD_BACK = 8
# Rows of the vocabulary at once.
CHUNK = 16_384


class Student:
    """A finished model with all its weights in memory (in bfloat16, where the processor multiplies it faster), and what
    is learned beside them.

    Args:
        model: its modules and wiring; of its weights only those that belong to no block are read.
        packed: weights by part name, the embedding's and the head's too.
        kept: by tensor name, what the blocks have beside their weights, in its stored dtype.

    Attributes:
        factors: logarithms of factors, float32 (rows,) by part name.
        shifts: what is added to a vector, in shares of its root mean square, by tensor name.
    """

    def __init__(self, model: Model, packed: Mapping[str, PackedWeight], kept: Mapping[str, Tensor]) -> None:
        self.model, self.shell = model, Shell(model)
        inner = [part.name for part in model.parts if part.block is not None]
        self.weights = {name: packed[name].dequantize().to(dense.learning()) for name in inner}
        self.factors = {name: torch.zeros(len(weight), requires_grad=True) for name, weight in self.weights.items()}
        self.kept = kept
        self.shifts = {n: torch.zeros(t.shape, requires_grad=True) for n, t in kept.items() if t.is_floating_point()}
        self.embedding = packed[model.parts[0].name]
        self.head = packed[head_part(model).name].dequantize()

    @property
    def learned(self) -> list[Tensor]:
        """All that is learned."""
        return [*self.factors.values(), *self.shifts.values()]

    def vector(self, name: str) -> Tensor:
        """A tensor that is kept, float32, rounded as it is stored; gradients pass the rounding."""
        stored = self.kept[name]
        if name not in self.shifts:
            return stored
        value = stored.float() + self.shifts[name] * stored.float().square().mean().sqrt()
        return value + (value.to(stored.dtype).float() - value).detach()

    def states(self, window: Tensor) -> Tensor:
        """What the head reads of one window of token ids (1, length): float32 (length, width)."""
        with torch.no_grad():
            hidden = self.shell.enter(window, self.embedding.gather)
        with self._in_place():
            for index, block in enumerate(self.model.blocks):
                inside = [name for name in self.kept if name.startswith(f"{block}.")]
                hidden = self.shell.run(index, hidden, {name: self.vector(name) for name in inside})
        return self.shell.leave(hidden)[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the head."""
        return self.head[start:stop]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The blocks' layers multiply with what is in memory here."""
        with ExitStack() as stack:
            for name, weight in self.weights.items():
                layer = self.model.module.get_submodule(name)
                layer.forward = partial(_product, layer, weight, self.factors[name])
                stack.callback(delattr, layer, "forward")
            yield


def _product(layer: nn.Module, weight: Tensor, factor: Tensor, x: Tensor) -> Tensor:
    product = nn.functional.linear(x.to(weight.dtype), weight).float() * factor.exp()
    bias: Tensor | None = layer._parameters.get("bias")
    return product if bias is None else product + bias


class Distillation:
    """Passes over calibration windows; the parameters that do best on windows held back are kept.

    Args:
        student: what learns.
        original: the model it learns from, with its states on the calibration windows.
        passes: over the windows, in all.
        seed: of the order of windows, and of the predictions that are compared.

    Attributes:
        turn: passes done.
        losses: mean KL(original || student) of held-back predictions in nats, before and after every pass.
    """

    def __init__(self, student: Student, original: Reference, passes: int, seed: int) -> None:
        self.student, self.original, self.passes, self.seed, self.turn = student, original, passes, seed, 0
        count = len(original.windows)
        self.held = list(range(0, count, HELD_BACK)) if count > 1 else [0]
        self.windows = [i for i in range(count) if i not in self.held] or self.held
        rates = ((student.factors, FACTORS), (student.shifts, VECTORS))
        groups = [{"params": [*learned.values()], "lr": rate, "most": rate} for learned, rate in rates if learned]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        self.best = [tensor.detach().clone() for tensor in student.learned]
        self.losses = [self.loss()]

    def run(self, told: Callable[[int, int], None]) -> None:
        """One more pass; `told` hears how many of its steps are done, and of how many."""
        generator = self._generator(1 + self.turn)
        each = len(self.windows)
        for k, place in enumerate(torch.randperm(each, generator=generator).tolist()):
            done = self.turn * each + k
            for group in self.optimizer.param_groups:
                group["lr"] = group["most"] * (1 - done / (self.passes * each)) * min(1, (done + 1) / WARM)
            self._step(self.windows[place], generator)
            told(k + 1, each)
        self.turn += 1
        self.losses.append(self.loss())
        if self.losses[-1] <= min(self.losses):
            self.best = [tensor.detach().clone() for tensor in self.student.learned]

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best parameters into the student."""
        for tensor, best in zip(self.student.learned, self.best, strict=True):
            tensor.copy_(best)

    @torch.no_grad()
    def loss(self) -> float:
        """Mean divergence of predictions held back; infinite where it is no number."""
        generator = self._generator(0)
        found = [self._compare(i, self._some(COMPARED, generator))[1] for i in self.held]
        total = sum(found) / len(found)
        return total if math.isfinite(total) else math.inf

    def state(self) -> dict[str, Tensor]:
        """All there is to go on from, as tensors by name."""
        found = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for i, (tensor, best) in enumerate(zip(self.student.learned, self.best, strict=True)):
            found |= {f"{i}.now": tensor.detach(), f"{i}.best": best}
            found |= {f"{i}.{name}": value for name, value in self.optimizer.state[tensor].items()}
        return found

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.losses = state["losses"].tolist()
        self.turn = len(self.losses) - 1
        for i, tensor in enumerate(self.student.learned):
            tensor.copy_(state[f"{i}.now"])
            self.best[i] = state[f"{i}.best"]
            names = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[tensor] = {name: state[f"{i}.{name}"] for name in names}

    @torch.enable_grad()
    def _step(self, i: int, generator: torch.Generator) -> None:
        self.optimizer.zero_grad()
        states, _, slope = self._compare(i, self._some(PREDICTIONS, generator))
        if torch.isfinite(slope).all():
            states.backward(slope)  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _compare(self, i: int, places: Tensor) -> tuple[Tensor, float, Tensor]:
        """What the head reads at some places of window `i`, the mean divergence there, and its gradient."""
        states = self.student.states(self.original.windows[i : i + 1])[places]
        mine = Head(self.student.model, states.detach()[None], self.student.rows)
        loss, slope = divergence(Head(self.original.model, self.original.states[i : i + 1, places]), mine, CHUNK)
        return states, loss, slope

    def _some(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.original.states.shape[1], generator=generator)[:count]

    def _generator(self, turn: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.seed + turn)
