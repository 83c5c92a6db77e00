"""What clients may send. Types are strict, and a field this server can't honour is refused rather than passed over."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from tailorbird.runtime.completion import Sampling


def _only(*allowed: Any) -> AfterValidator:
    """A field that is understood, but whose other values would ask for what this server does not do."""

    def check(value: Any) -> Any:
        if value is not None and value not in allowed:
            raise ValueError(f"only {allowed[0]!r} is supported" if allowed else "is not supported")
        return value

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _unicode(text: str) -> str:
    """JSON can hold half a surrogate, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not Unicode") from None
    return text


def _prompt(value: Any) -> str | list[int]:
    match value:
        case str(text) | [str(text)]:
            return _unicode(text)
        case [_, *_] if all(type(token) is int and 0 <= token < 2**31 for token in value):
            return list(value)
    raise ValueError("must be one text, or the token ids of one")


class StreamOptions(_Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, _only(False)] = None


Text = Annotated[str, AfterValidator(_unicode)]


class Request(_Strict):
    """What both kinds of request share; names and defaults are OpenAI's, `top_k` and `min_p` are added.

    Attributes:
        usual_tokens: most tokens of an answer where the request says nothing; None for as many as the server gives.
    """

    usual_tokens: ClassVar[int | None] = None

    model: Annotated[str, Field(max_length=1024)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[
        Annotated[list[Annotated[Text, Field(min_length=1, max_length=1024)]], Field(max_length=16)] | None,
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: Annotated[Any, _only(1)] = None
    presence_penalty: Annotated[Any, _only(0)] = None
    frequency_penalty: Annotated[Any, _only(0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    # Of no effect on the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def asked_tokens(self) -> int | None:
        """Most tokens of the answer, where the request says."""
        return self.max_tokens

    def sampling(self, tokens: int, stop: tuple[str, ...] = ()) -> Sampling:
        """How the answer is drawn, of at most `tokens` tokens and ending at `stop` too."""
        return Sampling(
            max_new_tokens=tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            top_p=self.top_p,
            min_p=self.min_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=(*(self.stop or ()), *stop),
        )


class CompletionRequest(Request):
    """A text, or its token ids, to continue."""

    usual_tokens = 16

    prompt: Annotated[str | list[int], PlainValidator(_prompt)]

    best_of: Annotated[Any, _only(1)] = None
    echo: Annotated[Any, _only(False)] = None
    logprobs: Annotated[Any, _only()] = None
    suffix: Annotated[Any, _only("")] = None


class TextPart(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[TextPart],
        BeforeValidator(lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value),
    ]

    name: Any = None
    refusal: Annotated[Any, _only()] = None
    audio: Annotated[Any, _only()] = None
    annotations: Annotated[Any, _only([])] = None
    tool_calls: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only()] = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Request):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    logprobs: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only(0)] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None

    @property
    def asked_tokens(self) -> int | None:
        """Most tokens of the answer, where the request says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
