"""`Service`: one model behind an engine, and the checks between a request and its completion."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.runtime.chat import ChatTemplate
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.serve.engine import Engine, Job
from tailorbird.serve.errors import Refused
from tailorbird.serve.metrics import Metrics
from tailorbird.serve.schema import ChatRequest, CompletionRequest, Request
from tailorbird.serve.settings import Settings


class Service:
    """What the routes of the server call.

    Attributes:
        name: of the model, as clients call it.
    """

    def __init__(self, model: LanguageModel, name: str, settings: Settings, template: ChatTemplate | None) -> None:
        self.model, self.name, self.settings, self.template = model, name, settings, template
        self.metrics = Metrics()
        self.engine = Engine(settings.slots, settings.queue, self.metrics)
        self._created = int(time.time())

    def card(self) -> Mapping[str, Any]:
        """The model as ``/v1/models`` shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "tailorbird",
            "chat": self.template is not None,
            "max_tokens": self.settings.tokens,
            "max_model_length": self.model.max_length,
        }

    def check_name(self, name: str | None) -> None:
        """Raise Refused for a model that is not here."""
        if name is not None and name != self.name:
            told = f"there is no model {name[:200]!r} here, only {self.name!r}"
            raise Refused(404, told, param="model", code="model_not_found")

    def chat(self, request: ChatRequest) -> Job:
        """Put a conversation into the line.

        Raises:
            Refused: it can't be answered, or not now.
        """
        template = self.template
        if template is None:
            told = "this model has no chat template: use /v1/completions, or serve it with --plain-chat"
            raise Refused(400, told, code="no_chat_template")
        if len(request.messages) > self.settings.messages:
            told = f"{len(request.messages)} messages are more than the {self.settings.messages} this server takes"
            raise Refused(400, told, param="messages", code="too_many_messages")
        messages = [message.plain() for message in request.messages]
        return self._submit(request, lambda: template.encode(self.model.tokenizer, messages), template.stop)

    def complete(self, request: CompletionRequest) -> Job:
        """Put a text into the line.

        Raises:
            Refused: it can't be continued, or not now.
        """
        prompt, read = request.prompt, self.model.tokenizer.prompt
        return self._submit(request, lambda: read(prompt) if isinstance(prompt, str) else prompt)

    def _submit(self, request: Request, ids: Callable[[], list[int]], stop: tuple[str, ...] = ()) -> Job:
        self.check_name(request.model)
        tokens, most = request.asked_tokens, self.settings.tokens
        if tokens is not None and tokens > most:
            raise Refused(
                400, f"{tokens} tokens are more than the {most} this server gives", param="max_tokens", code="too_long"
            )
        sampling = request.sampling(tokens or min(most, request.usual_tokens or most), stop)
        return self.engine.submit(lambda: self.model.complete(self._checked(ids()), sampling))

    def _checked(self, ids: list[int]) -> list[int]:
        limit, words = self.settings.prompt_tokens, len(self.model.tokenizer)
        if limit is not None and len(ids) > limit:
            raise UsageError(f"the prompt's {len(ids)} tokens are more than the {limit} this server reads")
        if max(ids, default=0) >= words:
            raise UsageError(f"token {max(ids)} is not one of the {words} of this model")
        return ids
