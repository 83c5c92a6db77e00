"""A language model as lm-eval wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tailorbird.errors import require
from tailorbird.tasks.tokenizer import Tokenizer

BATCH_TOKENS = 4096
BATCH_LOGITS = 2**26
DEFAULT_LENGTH = 2048
Request = tuple[Any, list[int], list[int]]


class Scorer(Protocol):
    """What is needed of a loaded language model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        ...

    @property
    def max_length(self) -> int | None:
        """Tokens it can look at."""
        ...

    def logits(self, ids: Tensor, keep: int = 0) -> Tensor:
        """Logits (batch, length or keep, vocabulary) for ids (batch, length)."""
        ...

    @property
    def generate(self) -> Callable[..., Iterator[str]]:
        """Continues a prompt, piece by piece."""
        ...


def adapter(model: Scorer) -> Any:
    """An ``lm_eval.api.model.LM`` around a model.

    Raises:
        MissingExtra: lm-eval is not installed.
    """
    base = require("lm_eval.api.model", extra="eval").TemplateLM
    return type("TailorbirdLM", (_Harness, base), {})(model)


class _Harness:
    """The methods lm-eval's ``TemplateLM`` leaves open."""

    def __init__(self, model: Scorer) -> None:
        super().__init__()
        self.model = model
        self.max_length = model.max_length or DEFAULT_LENGTH

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return next(iter(self.model.tokenizer.eos), 0)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.model.tokenizer.bos
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids, with the start token unless told otherwise."""
        tokenizer = self.model.tokenizer
        return tokenizer.encode(string) if add_special_tokens is False else tokenizer.prompt(string)

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the most likely one."""
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        whole = [(context + rest)[-(self.max_length + 1) :][:-1] for _, context, rest in requests]
        for batch in _batches(whole, [len(rest) for *_, rest in requests], len(self.model.tokenizer)):
            longest = len(whole[batch[0]])
            # Padding comes after a text, where a causal model doesn't look.
            ids = torch.tensor([whole[i] + [0] * (longest - len(whole[i])) for i in batch], dtype=torch.int64)
            keep = max(longest - len(whole[i]) + len(requests[i][2]) for i in batch)
            logits = self.model.logits(ids, min(keep, longest))
            for row, i in enumerate(batch):
                end = logits.shape[1] - (longest - len(whole[i]))
                rest = torch.tensor(requests[i][2][-len(whole[i]) :], dtype=torch.int64)
                answers[i] = _score(logits[row, end - len(rest) : end], rest)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the model's length with as much context as fits."""
        utils = require("lm_eval.utils", extra="eval")
        totals = []
        for request in requests:
            ids = self.model.tokenizer.encode(request.args[0])
            rolled = utils.get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            pairs = [(None, *utils.make_disjoint_window(pair)) for pair in rolled]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of the task's stop strings."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        sampled = bool(settings.get("do_sample", False))
        pieces = self.model.generate(
            context,
            int(settings.get("max_gen_toks", 256)),
            temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
            stop=[until] if isinstance(until, str) else until,
        )
        return "".join(pieces)


def _batches(texts: Sequence[Sequence[int]], scored: Sequence[int], vocabulary: int) -> Iterator[list[int]]:
    """Indices of texts that go through the model together, longest first, so that padding and logits stay small."""
    batch: list[int] = []
    longest = keep = 0
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if batch:
            wider = max(keep, longest - len(texts[i]) + scored[i])
            n = len(batch) + 1
            if n * longest > BATCH_TOKENS or n * wider * vocabulary > BATCH_LOGITS:
                yield batch
                batch = []
        if not batch:
            longest, keep = len(texts[i]), 0
        batch.append(i)
        keep = max(keep, longest - len(texts[i]) + scored[i])
    if batch:
        yield batch


def _score(logits: Tensor, rest: Tensor) -> tuple[float, bool]:
    chances = logits.log_softmax(dim=-1)
    total = chances.gather(1, rest[:, None]).double().sum().item()
    return total, bool((logits.argmax(dim=-1) == rest).all())
