"""Chat templates: from the messages of a conversation to the text a model continues.

A template is Jinja, and comes from outside with the model. It is rendered in a sandbox from which neither Python's
inner life nor anything that lasts can be reached, and its output and its time are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from tailorbird.errors import ModelError, UsageError, require
from tailorbird.files import read_json
from tailorbird.runtime.limit import TimeUp, at_most
from tailorbird.tasks.tokenizer import Source, Tokenizer

MAX_TEMPLATE_BYTES = 2**20
MAX_OUTPUT = 2**22  # characters
MAX_SECONDS = 5.0  # of processor time
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
# A model that knows no turns would play both parts.
PLAIN_STOP = ("\nuser:", "\nsystem:", "\nassistant:")
# Training templates mark what the model says; here the mark means nothing.
_MARKS = (
    (re.compile(r"(\{%[-+]?\s*)generation\b"), r"\1if true"),
    (re.compile(r"(\{%[-+]?\s*)endgeneration\b"), r"\1endif"),
)

Message = Mapping[str, str]


class ChatTemplate:
    """A model's way to write a conversation down.

    Attributes:
        stop: texts that end an answer.
    """

    def __init__(self, text: str, tokens: Mapping[str, str], source: str, stop: Sequence[str] = ()) -> None:
        """Compile a template.

        Args:
            text: Jinja, as transformers has it in ``chat_template``.
            tokens: special tokens by name, such as ``bos_token``.
            source: the model's name, for messages.
            stop: texts that end an answer.

        Raises:
            ModelError: the template is not Jinja.
        """
        self.tokens, self.stop, self._plain = dict(tokens), tuple(stop), text == PLAIN
        for mark, meaning in _MARKS:
            text = mark.sub(meaning, text)
        try:
            self._template = _environment().from_string(text)
        except Exception as cause:  # Jinja's compiler has many ways to fail
            raise ModelError(
                f"{source}: the chat template can't be read: {str(cause)[:200]}",
                hint="serve it with --plain-chat, or mend chat_template.jinja",
            ) from cause

    @classmethod
    def of(cls, source: Source, *, plain: bool = False) -> ChatTemplate | None:
        """The template of a checkpoint or an artifact; None where it has none.

        Args:
            source: the model.
            plain: lines of ``role: text`` instead of the model's own template.

        Raises:
            ModelError: the template or the file it stands in is damaged.
        """
        path = source.folder / "tokenizer_config.json"
        settings = read_json(path, error=ModelError) if path.is_file() else {}
        settings = settings if isinstance(settings, dict) else {}
        if plain:
            return cls(PLAIN, {}, str(source.folder), PLAIN_STOP)
        text = _own(source.folder / "chat_template.jinja", settings.get("chat_template"))
        return None if text is None else cls(text, dict(_tokens(settings)), str(source.folder))

    def render(self, messages: Sequence[Message]) -> str:
        """The text to continue: all messages, and the start of an answer.

        Args:
            messages: each with ``role`` and ``content``.

        Raises:
            UsageError: the template refuses these messages, makes more than 4 Mi characters of them, or computes for
                more than five seconds.
        """
        given = [dict(message) for message in messages]
        pieces, size = [], 0
        try:
            with at_most(MAX_SECONDS):
                for piece in self._template.generate(messages=given, add_generation_prompt=True, **self.tokens):
                    pieces.append(piece)
                    size += len(piece)
                    if size > MAX_OUTPUT:
                        break
        except TimeUp:
            told = f"the model's chat template takes more than {MAX_SECONDS:g} seconds"
            raise UsageError(told, hint="shorten the messages, or serve it with --plain-chat") from None
        except Exception as cause:  # whatever a template from outside comes upon
            raise UsageError(
                f"the model's chat template refuses these messages: {str(cause)[:200]}",
                hint="many models want user and assistant by turns, and a system message first or none",
            ) from cause
        if size > MAX_OUTPUT:
            raise UsageError(f"the chat template makes more than {MAX_OUTPUT} characters", hint="shorten the messages")
        return "".join(pieces)

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation; a model's own template puts a start token itself, where it wants one."""
        text = self.render(messages)
        return tokenizer.prompt(text) if self._plain else tokenizer.encode(text)


def _environment() -> Any:
    sandbox = require("jinja2.sandbox", extra="serve")
    made = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    # In Jinja a product can make a text of any length, and a power a number of any size, in one step.
    made.intercepted_binops = frozenset({"*", "**"})
    made.binop_table |= {"*": _product, "**": _power}
    made.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
    return made


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
    """JSON for a model to read: Jinja's own filter writes it for HTML."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)


def _product(left: Any, right: Any) -> Any:
    for many, times in ((left, right), (right, left)):
        if hasattr(many, "__len__") and len(many) * times > MAX_OUTPUT:
            raise UsageError("a product is too long")
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    if abs(base) > 1000 or abs(exponent) > 100:
        raise UsageError("a power is too large")
    return base**exponent


def _refuse(message: str) -> NoReturn:
    raise UsageError(str(message))


def _own(path: Path, setting: Any) -> str | None:
    """A file of its own wins; of several in the settings the one named default."""
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelError(f"{path} is larger than {MAX_TEMPLATE_BYTES} bytes", hint="this is no chat template")
        return path.read_text(encoding="utf-8", errors="replace")
    if isinstance(setting, list):
        defaults = [entry for entry in setting if isinstance(entry, dict) and entry.get("name") == "default"]
        setting = defaults[0].get("template") if defaults else None
    if isinstance(setting, str) and len(setting) > MAX_TEMPLATE_BYTES:
        raise ModelError(f"the chat template beside {path} is too large", hint="this is no chat template")
    return setting if isinstance(setting, str) else None


def _tokens(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, token in settings.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            yield name, text
