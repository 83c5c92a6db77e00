"""Text while it is being generated: token ids in, whole characters out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_CONTEXT = 8
_WINDOW = 64


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


class TextStream:
    """Turns tokens into pieces of text, none of which ends inside a UTF-8 character.

    Only the last tokens are decoded each time; some before them go with them, because tokenizers treat the start
    of a text differently.
    """

    def __init__(self, tokenizer: Decoder, context: Sequence[int]) -> None:
        """Start after the token ids `context`, whose text is not given out."""
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.given = ""
        self._restart(list(context))

    def push(self, token: int) -> str:
        """The text that is certain now that `token` has come; often empty, never half a character."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        if text.endswith(_UNFINISHED):
            return ""
        piece = text[len(self.given) :]
        self.given = text
        if len(self.ids) > _WINDOW:
            self._restart(self.ids)
        return piece

    def finish(self) -> str:
        """What was held back, damaged characters included."""
        return self.tokenizer.decode(self.ids)[len(self.given) :]

    def _restart(self, ids: list[int]) -> None:
        self.ids = ids[-_CONTEXT:]
        self.given = self.tokenizer.decode(self.ids)


class StopText:
    """Ends a text at the first of some strings, holding back what may be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = [text for text in stop if text]
        self.held = ""
        self.done = False

    def push(self, piece: str) -> str:
        """The text that can't belong to a stop string; after one was found, what stood before it, and `done` is set."""
        self.held += piece
        found = [at for text in self.stop if (at := self.held.find(text)) >= 0]
        if found:
            self.done = True
            return self._give(min(found))
        return self._give(len(self.held) - self._overlap())

    def finish(self) -> str:
        """What was held back, unless a stop string was found."""
        return "" if self.done else self._give(len(self.held))

    def _give(self, count: int) -> str:
        piece, self.held = self.held[:count], self.held[count:]
        return piece

    def _overlap(self) -> int:
        """Length of the longest end of the text that starts a stop string."""
        starts = [n for text in self.stop for n in range(1, len(text)) if self.held.endswith(text[:n])]
        return max(starts, default=0)
