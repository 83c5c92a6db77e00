"""`LanguageModel`: a causal language model that is ready to run, packed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.errors import UsageError, require
from tailorbird.runtime.completion import Completion, Sampling, Steps
from tailorbird.runtime.decoder import NativeDecoder, NativeSteps, Settings, native_decoder
from tailorbird.runtime.modules import held_bytes
from tailorbird.runtime.sampling import Numbers
from tailorbird.tasks.tokenizer import Source, Tokenizer


class LanguageModel:
    """A causal language model with its weights in memory.

    Attributes:
        module: the torch module of the model's family; packed weights stay packed in it.
        config: the content of config.json.
        settings: how the native decoder computes, where there is one.
    """

    def __init__(self, module: nn.Module, source: Source, settings: Settings | None = None) -> None:
        self.module, self.source, self.settings = module, source, settings or Settings()
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
        min_p: float | None = None,
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
            min_p: draw only from tokens at least p times as likely as the most likely one.
            seed: of the draw; the same seed gives the same text.
            stop: texts at which to end; they are not given out.

        Raises:
            UsageError: settings that can't be, an empty prompt for a model without a start token, or a prompt too long.
        """
        sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, seed, stop)
        return (piece for piece in self.complete(self.tokenizer.prompt(prompt), sampling) if piece)

    def complete(self, ids: Sequence[int], sampling: Sampling) -> Completion:
        """Continue token ids, which stand for a whole prompt, and keep count.

        Raises:
            UsageError: nothing to continue, or more than the model can look at.
        """
        if not ids:
            raise UsageError("the prompt is empty, and this model has no start token", hint="give a prompt")
        self._check_length(len(ids) + 1)
        if self.max_length is not None and self.max_length - len(ids) < sampling.max_new_tokens:
            sampling = replace(sampling, max_new_tokens=self.max_length - len(ids))
        return Completion(self.steps(ids, sampling.max_new_tokens), self.tokenizer, ids, sampling)

    @cached_property
    def decoder(self) -> NativeDecoder | None:
        """The native form of the model; None where there are no native kernels, or it has something they have not."""
        return native_decoder(self.module, self.settings)

    def steps(self, ids: Sequence[int], room: int) -> Steps:
        """Logits of the next token after a prompt of token ids, then after every token fed, for `room` tokens."""
        if self.decoder is None:
            return _Steps(self.module, ids)
        return NativeSteps(self.decoder.start(len(ids) + room), ids)

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise UsageError(
                f"{length} tokens are more than the {self.max_length} the model can look at", hint="give a shorter text"
            )


class _Steps(Iterator[Numbers]):
    """Logits of the next token, one step at a time, with the keys and values of earlier ones kept."""

    def __init__(self, module: nn.Module, ids: Sequence[int]) -> None:
        self.module = module
        self.waiting = list(ids)
        self.cache = require("transformers", extra="hf").DynamicCache(config=module.config)

    def feed(self, token: int) -> None:
        """The token that was chosen."""
        self.waiting.append(token)

    @torch.no_grad()
    def __next__(self) -> Numbers:
        ids = torch.tensor([self.waiting], dtype=torch.int64)
        self.waiting = []
        out = self.module(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        last: Numbers = torch.as_tensor(out.logits)[0, -1].float().numpy()
        return last
