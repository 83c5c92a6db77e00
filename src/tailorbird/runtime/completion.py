"""`Completion`: one text being continued, token by token, with what it took and why it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tailorbird.errors import UsageError
from tailorbird.runtime.sampling import Chance, Numbers, choose
from tailorbird.runtime.stream import StopText, TextStream
from tailorbird.tasks.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop.

    Attributes:
        max_new_tokens: most tokens to add; the model's end-of-text token ends earlier.
        temperature: 0 always takes the most likely token; above, tokens are drawn.
        top_k: draw only from the k most likely tokens.
        top_p: draw only from the fewest tokens whose probabilities reach p.
        min_p: draw only from tokens at least p times as likely as the most likely one.
        seed: of the draw, a whole number of 64 bits; the same seed gives the same text.
        stop: texts at which to end; they are not given out.

    Raises:
        UsageError: settings that can't be.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        wrong = {
            f"max_new_tokens is {self.max_new_tokens}": self.max_new_tokens < 0,
            f"temperature is {self.temperature}": not 0 <= self.temperature < float("inf"),
            f"top_k is {self.top_k}": self.top_k is not None and self.top_k < 1,
            f"top_p is {self.top_p}": self.top_p is not None and not 0 < self.top_p <= 1,
            f"min_p is {self.min_p}": self.min_p is not None and not 0 <= self.min_p <= 1,
        }
        if not -(2**63) <= self.seed < 2**64:
            raise UsageError(f"seed is {self.seed}", hint="a whole number of 64 bits")
        for text, bad in wrong.items():
            if bad:
                raise UsageError(
                    text, hint="temperature 0 or more, top_k 1 or more, top_p above 0, top_p and min_p at most 1"
                )


class Steps(Protocol):
    """Logits of the next token, float32 (vocabulary,), one step at a time; they hold until the next."""

    def __next__(self) -> Numbers:
        """The logits after all tokens so far."""
        ...

    def feed(self, token: int) -> None:
        """The token that was chosen."""
        ...


class Completion:
    """The continuation of some token ids, as `LanguageModel.complete` makes it; iterate over it once.

    Every token gives one piece of text, which is empty where a character or a stop text is not complete yet, and the
    end may give one more. A piece at a time, several completions of one model can take turns.

    Attributes:
        prompt_tokens: tokens that are continued.
        tokens: tokens chosen so far, an end-of-text token included.
        finish: why it ended: "stop" for an end-of-text token or a stop text, "length" for a limit; None until then.
    """

    def __init__(self, steps: Steps, tokenizer: Tokenizer, ids: Sequence[int], sampling: Sampling) -> None:
        self._steps: Steps | None = steps
        self._tokenizer, self._sampling = tokenizer, sampling
        self._text, self._limit = TextStream(tokenizer, ids), StopText(sampling.stop)
        self.prompt_tokens, self.tokens = len(ids), 0
        self.finish: Literal["stop", "length"] | None = None

    def __iter__(self) -> Iterator[str]:
        for token in self._chosen():
            piece = self._limit.push(self._text.push(token))
            if self._limit.done:
                self.finish = "stop"
                yield piece
                return
            yield piece
        rest = self._limit.push(self._text.finish()) + self._limit.finish()
        if self._limit.done:
            self.finish = "stop"
        if rest:
            yield rest

    def _chosen(self) -> Iterator[int]:
        how = self._sampling
        # Keys and values go when the iteration ends, not when the counts are no longer looked at.
        steps, self._steps = self._steps, None
        assert steps is not None, "a completion can be iterated over once"
        chance = Chance(how.seed)
        for _ in range(how.max_new_tokens):
            token = choose(next(steps), chance, how.temperature, how.top_k, how.top_p, how.min_p)
            self.tokens += 1
            if token in self._tokenizer.eos:
                self.finish = "stop"
                return
            steps.feed(token)
            yield token
        self.finish = "length"
