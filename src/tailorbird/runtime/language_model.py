"""`LanguageModel`: a causal language model that is ready to run, packed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError, require
from tailorbird.runtime.modules import held_bytes
from tailorbird.runtime.sampling import choose
from tailorbird.runtime.stream import StopText, TextStream
from tailorbird.tasks.tokenizer import Source, Tokenizer


class LanguageModel:
    """A causal language model with its weights in memory.

    Attributes:
        module: the torch module of the model's family; packed weights stay packed in it.
        config: the content of config.json.
    """

    def __init__(self, module: nn.Module, source: Source) -> None:
        self.module, self.source = module, source
        self.config: Mapping[str, Any] = source.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read when it is first asked for.

        Raises:
            TailorbirdError: the model came without one.
        """
        return Tokenizer.of(self.source)

    @property
    def nbytes(self) -> int:
        """Bytes of memory the weights take; a weight that several layers share counts once."""
        return held_bytes(self.module)

    @property
    def max_length(self) -> int | None:
        """Tokens the model can look at, where its configuration says so."""
        value = self.config.get("max_position_embeddings")
        return value if isinstance(value, int) else None

    @torch.no_grad()
    def logits(self, ids: Tensor, keep: int = 0) -> Tensor:
        """Logits of the token after each position.

        Args:
            ids: int64 (batch, length).
            keep: only the last so many positions; 0 for all.

        Returns:
            float32 (batch, length or keep, vocabulary).

        Raises:
            UsageError: more tokens than the model can look at.
        """
        self._check_length(ids.shape[1])
        out = self.module(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        return torch.as_tensor(out).float()

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Continue a text, piece by piece; the pieces joined are the continuation.

        Args:
            prompt: the text to continue.
            max_new_tokens: most tokens to add; the model's end-of-text token ends earlier.
            temperature: 0 always takes the most likely token; above, tokens are drawn.
            top_k: draw only from the k most likely tokens.
            top_p: draw only from the fewest tokens whose probabilities reach p.
            seed: of the draw; the same seed gives the same text.
            stop: texts at which to end; they are not given out.

        Raises:
            UsageError: settings that can't be, an empty prompt for a model without a start token, or a prompt too long.
        """
        _check_sampling(max_new_tokens, temperature, top_k, top_p)
        ids = self.tokenizer.prompt(prompt)
        if not ids:
            raise UsageError("the prompt is empty, and this model has no start token", hint="give a prompt")
        self._check_length(len(ids) + 1)
        generator = torch.Generator().manual_seed(seed)
        room = max_new_tokens if self.max_length is None else min(max_new_tokens, self.max_length - len(ids))
        logits = self._steps(ids)
        tokens = (choose(next(logits), generator, temperature, top_k, top_p) for _ in range(room))
        return self._pieces(tokens, logits, ids, stop)

    def _pieces(self, tokens: Iterator[int], logits: _Steps, ids: Sequence[int], stop: Sequence[str]) -> Iterator[str]:
        text, limit = TextStream(self.tokenizer, ids), StopText(stop)
        for token in tokens:
            if token in self.tokenizer.eos:
                break
            logits.feed(token)
            if piece := limit.push(text.push(token)):
                yield piece
            if limit.done:
                return
        if rest := limit.push(text.finish()) + limit.finish():
            yield rest

    def _steps(self, ids: Sequence[int]) -> _Steps:
        return _Steps(self.module, ids)

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise UsageError(
                f"{length} tokens are more than the {self.max_length} the model can look at", hint="give a shorter text"
            )


class _Steps(Iterator[Tensor]):
    """Logits of the next token, one step at a time, with the keys and values of earlier ones kept."""

    def __init__(self, module: nn.Module, ids: Sequence[int]) -> None:
        self.module = module
        self.waiting = list(ids)
        self.cache = require("transformers", extra="hf").DynamicCache(config=module.config)

    def feed(self, token: int) -> None:
        """The token that was chosen."""
        self.waiting.append(token)

    @torch.no_grad()
    def __next__(self) -> Tensor:
        ids = torch.tensor([self.waiting], dtype=torch.int64)
        self.waiting = []
        out = self.module(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return torch.as_tensor(out.logits)[0, -1].float()


def _check_sampling(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    wrong = {
        f"max_new_tokens is {max_new_tokens}": max_new_tokens < 0,
        f"temperature is {temperature}": not 0 <= temperature < float("inf"),
        f"top_k is {top_k}": top_k is not None and top_k < 1,
        f"top_p is {top_p}": top_p is not None and not 0 < top_p <= 1,
    }
    for text, bad in wrong.items():
        if bad:
            raise UsageError(text, hint="temperature 0 or more, top_k 1 or more, top_p above 0 and at most 1")
