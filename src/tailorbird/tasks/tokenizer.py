"""`Tokenizer`: text to token ids and back, as the model expects it, through the `tokenizers` library (extra ``hf``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tailorbird.errors import ModelError, require
from tailorbird.files import read_json

MAX_BYTES = 512 * 2**20
_REMEDY = "fetch the model's tokenizer files again"


class Source(Protocol):
    """A model with a folder: a `Checkpoint` (has ``tokenizer_file``) or an artifact (has ``tokenizer_bytes()``)."""

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        ...


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        bos: the token every text starts with, or None where the model was trained without one.
        eos: tokens that end a text.
    """

    def __init__(self, data: bytes, settings: Mapping[str, Any], config: Mapping[str, Any], source: str) -> None:
        """Build one from the content of tokenizer.json.

        Args:
            data: the content of tokenizer.json.
            settings: the content of tokenizer_config.json; may be empty.
            config: config.json, overlaid with generation_config.json.
            source: the model's name, for messages.

        Raises:
            ModelError: tokenizer.json is damaged.
            MissingExtra: the library is not installed.
        """
        tokenizers = require("tokenizers", extra="hf")
        try:
            self._inner = tokenizers.Tokenizer.from_buffer(data)
            self._inner.no_truncation()
            self._inner.no_padding()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as cause:  # a panic inside the library is no Exception
            raise ModelError(f"{source}: tokenizer.json can't be read: {str(cause)[:200]}", hint=_REMEDY) from cause
        self.bos = self._bos(settings, config)
        self.eos = self._eos(settings, config)

    @classmethod
    def of(cls, source: Source) -> Tokenizer:
        """The tokenizer of a checkpoint or an artifact.

        Raises:
            ModelError: there is none, or it is damaged.
        """
        config = dict(source.config) | _optional(source.folder / "generation_config.json")
        return cls(_bytes(source), _optional(source.folder / "tokenizer_config.json"), config, str(source.folder))

    def __len__(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a token before or after it."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a text, with the token before it that the model expects."""
        ids = self.encode(text)
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def _bos(self, settings: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
        """The flag in tokenizer_config.json decides; without one, what the tokenizer itself puts before a text."""
        flag = settings.get("add_bos_token")
        if flag is False:
            return None
        put = list(self._inner.encode("", add_special_tokens=True).ids)
        if put or not flag:
            return put[0] if put else None
        named = self._named(settings.get("bos_token"))
        return next(iter(named or self._ids(config.get("bos_token_id"))), None)

    def _eos(self, settings: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
        return self._ids(config.get("eos_token_id")) or self._named(settings.get("eos_token"))

    def _named(self, token: Any) -> tuple[int, ...]:
        name = token.get("content") if isinstance(token, dict) else token
        return self._ids(self._inner.token_to_id(name) if isinstance(name, str) else None)

    def _ids(self, value: Any) -> tuple[int, ...]:
        values = value if isinstance(value, list) else [value]
        return tuple(v for v in values if type(v) is int and 0 <= v < len(self))


def _bytes(source: Source) -> bytes:
    reader = getattr(source, "tokenizer_bytes", None)
    if reader is not None:
        return bytes(reader())
    file: Path | None = getattr(source, "tokenizer_file", None)
    if file is None:
        raise ModelError(
            f"{source.folder} has no tokenizer.json, so no text can be given to the model",
            hint="save the tokenizer beside the model: AutoTokenizer.from_pretrained(id).save_pretrained(folder)",
        )
    if file.stat().st_size > MAX_BYTES:
        raise ModelError(f"{file} is larger than {MAX_BYTES} bytes", hint=_REMEDY)
    return file.read_bytes()


def _optional(path: Path) -> dict[str, Any]:
    data = read_json(path, error=ModelError) if path.is_file() else {}
    return data if isinstance(data, dict) else {}
