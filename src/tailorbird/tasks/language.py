"""Evaluation of a language model: perplexity, and divergence from the original, in bounded memory.

Hidden states of all windows go through the model block by block, so that one block's weights are in memory at a
time; the head's rows are read in chunks. The original's hidden states are kept (`Reference`), so that many
compressed candidates meet it computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.errors import UsageError
from tailorbird.kernels import dense
from tailorbird.measure.shell import Rows, Shell
from tailorbird.tasks.head import Head, head_part
from tailorbird.tasks.room import room
from tailorbird.tasks.streaming_softmax import StreamingDivergence, StreamingSoftmax

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, and steps in all."""

BATCH_TOKENS = 2048
VOCABULARY_CHUNK = 16_384
TOKEN_CHUNK = 256


@dataclass(frozen=True)
class LanguageMetrics:
    """What evaluation found.

    Attributes:
        perplexity: exp of the mean negative log-likelihood.
        tokens: predictions scored.
        kl: mean KL(original || model) in nats; None without an original.
        top1_agreement: share of predictions whose most likely token is the original's; None without an original.
        nll: mean negative log-likelihood in nats.
        window: tokens in a window.
        stride: tokens from the start of one window to the next: every token of the text is predicted once.
        reference_perplexity: the original's perplexity on the same tokens; None without an original.
    """

    perplexity: float
    tokens: int
    kl: float | None
    top1_agreement: float | None
    nll: float
    window: int
    stride: int
    reference_perplexity: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """The original model and its hidden states before the head on some windows.

    Attributes:
        model: the original.
        windows: int64 (count, length).
        states: float32 (count, length - 1, width).
    """

    model: Model
    windows: Tensor
    states: Tensor

    @classmethod
    def of(cls, model: Model, windows: Tensor, progress: Progress | None = None) -> Reference:
        """Compute the states once."""
        return cls(model, windows, hidden(model, windows, progress))


def evaluate(
    model: Model, windows: Tensor, reference: Model | Reference | None = None, progress: Progress | None = None
) -> LanguageMetrics:
    """Perplexity of a model on windows, and how far it is from the original.

    Args:
        model: laid out in blocks, over a checkpoint or an artifact.
        windows: int64 (count, length), from `evaluation_windows`; every token but the first of a window is predicted.
        reference: the original; a `Reference` on the same windows saves computing it again.
        progress: told about every block and every chunk of the head.

    Raises:
        UsageError: the reference has another vocabulary, or was made on other windows.
    """
    if isinstance(reference, Model):
        reference = Reference.of(reference, windows, progress)
    return score(model, hidden(model, windows, progress), windows, reference, progress)


@torch.no_grad()
@dense.fast(exact=True)
def hidden(model: Model, windows: Tensor, progress: Progress | None = None) -> Tensor:
    """What the head is given at every position that predicts: float32 (count, length - 1, width)."""
    shell = Shell(model)
    batches = torch.split(torch.arange(len(windows)), max(1, BATCH_TOKENS // windows.shape[1]))
    rows = _rows(model, windows)
    first = shell.enter(windows[batches[0]], rows)
    states = room((*windows.shape, first.shape[-1]))
    for batch in batches:
        states[batch] = shell.enter(windows[batch], rows)
    for i, name in enumerate(model.blocks):
        model.fill(name)
        for batch in batches:
            states[batch] = shell.run(i, states[batch])
        model.drop(name)
        if progress:
            progress("blocks", i + 1, len(model.blocks))
    width = shell.leave(states[batches[0]]).shape[-1]
    ends = states if width == states.shape[-1] else room((*windows.shape, width))
    for batch in batches:
        ends[batch] = shell.leave(states[batch])
    return ends[:, :-1]


@torch.no_grad()
@dense.fast(exact=True)
def score(
    model: Model, states: Tensor, windows: Tensor, reference: Reference | None = None, progress: Progress | None = None
) -> LanguageMetrics:
    """The head's part of `evaluate`, from hidden states."""
    part = head_part(model)
    rows = part.shape[0]
    if reference is not None:
        _check(reference, rows, windows)
    n = windows[:, 1:].numel()
    targets = windows[:, 1:].reshape(-1)
    own = StreamingSoftmax(targets)
    original = StreamingSoftmax(targets)
    gap = StreamingDivergence(original, own)
    mine = Head(model, states)
    other = Head(reference.model, reference.states) if reference else None
    for start in range(0, rows, VOCABULARY_CHUNK):
        stop = min(start + VOCABULARY_CHUNK, rows)
        mine.take(start, stop)
        if other:
            other.take(start, stop)
        for low in range(0, n, TOKEN_CHUNK):
            tokens = slice(low, min(low + TOKEN_CHUNK, n))
            if other:
                gap.add(tokens, start, other.logits(tokens), mine.logits(tokens))
            else:
                own.add(tokens, start, mine.logits(tokens))
        if progress:
            progress("head", stop, rows)
    nll = own.nll().mean().item()
    shape = {"tokens": n, "window": windows.shape[1], "stride": windows.shape[1] - 1}
    if not reference:
        return LanguageMetrics(perplexity=_exp(nll), kl=None, top1_agreement=None, nll=nll, **shape)
    return LanguageMetrics(
        perplexity=_exp(nll),
        kl=gap.value().mean().item(),
        top1_agreement=(own.choice == original.choice).double().mean().item(),
        nll=nll,
        reference_perplexity=_exp(original.nll().mean().item()),
        **shape,
    )


def _rows(model: Model, windows: Tensor) -> Rows:
    """Embedding rows by id; those the windows use are read once, in the order of the file."""
    used = torch.unique(windows)
    part = next(part for part in model.parts if part.name == model.anatomy.embedding)
    table = torch.empty(len(used), part.shape[1])
    for start in range(0, part.shape[0], VOCABULARY_CHUNK):
        stop = min(start + VOCABULARY_CHUNK, part.shape[0])
        mask = (used >= start) & (used < stop)
        if mask.any():
            table[mask] = model.read_rows(part, start, stop)[used[mask] - start].float()
    return lambda ids: table[torch.searchsorted(used, ids)]


def _check(reference: Reference, rows: int, windows: Tensor) -> None:
    theirs = head_part(reference.model).shape[0]
    if theirs != rows:
        raise UsageError(
            f"the model's vocabulary has {rows} entries, the original's {theirs}",
            hint="compare it with the model it was made from",
        )
    if not torch.equal(reference.windows, windows):
        raise UsageError("the original was computed on other windows", hint="make the Reference on the same windows")


def _exp(nll: float) -> float:
    return math.exp(nll) if nll < 700 else math.inf
