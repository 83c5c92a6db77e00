"""What clients get: the objects of OpenAI's API, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from tailorbird.runtime.completion import Completion
from tailorbird.serve.errors import Refused

DONE = b"data: [DONE]\n\n"


def encoded(value: Any) -> bytes:
    """JSON in ASCII: half a surrogate that a client sent does no harm in it."""
    return json.dumps(value).encode()


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


class Answer:
    """The shapes of one answer.

    Attributes:
        chat: of a conversation; otherwise of a text that is continued.
        usage: a stream ends with what it took.
    """

    def __init__(self, model: str, *, chat: bool, usage: bool = False) -> None:
        self.chat, self.usage = chat, usage
        self._head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, completion: Completion) -> dict[str, Any]:
        """The answer in one piece."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": completion.finish}
        kind = "chat.completion" if self.chat else "text_completion"
        return {"object": kind, **self._head, "choices": [choice], "usage": usage(completion)}

    async def stream(self, text: AsyncIterator[str], completion: Completion) -> AsyncIterator[bytes]:
        """The answer as server-sent events; one that breaks off ends with an error."""
        try:
            if self.chat:
                yield event(self._piece({"delta": {"role": "assistant", "content": ""}}))
            async for piece in text:
                if piece:
                    yield event(self._piece({"delta": {"content": piece}} if self.chat else {"text": piece}))
            yield event(self._piece({"delta": {}} if self.chat else {"text": ""}, completion.finish))
            if self.usage:
                yield event(self._chunk([]) | {"usage": usage(completion)})
        except Refused as error:
            yield event(error.to_json())
        yield DONE

    def _piece(self, said: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return self._chunk([{"index": 0, **said, "logprobs": None, "finish_reason": finish}])

    def _chunk(self, choices: list[Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {"object": kind, **self._head, "choices": choices} | ({"usage": None} if self.usage else {})


def usage(completion: Completion) -> dict[str, int]:
    """What an answer took, an end-of-text token included."""
    read, written = completion.prompt_tokens, completion.tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
