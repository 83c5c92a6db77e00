"""Windows: rows of token ids of one length, to calibrate on and to evaluate with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, overload

import torch
from torch import Tensor

from tailorbird.errors import DataError, UsageError


class Encoder(Protocol):
    """What is needed of a `Tokenizer`."""

    bos: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids without a token before or after."""
        ...


def windows(documents: Sequence[Sequence[int]], length: int, count: int, bos: int | None, seed: int) -> Tensor:
    """Calibration windows: documents in a seeded order, one after the other, cut into windows.

    Args:
        documents: token ids of every document; only those that are needed are looked at.
        length: tokens in a window, the beginning-of-sequence token included.
        count: windows wanted; fewer come back when the text ends before.
        bos: the token every window starts with, if any.
        seed: of the order of the documents.

    Returns:
        int64 (windows, length).

    Raises:
        UsageError: a length or a count that can't be.
        DataError: the text does not fill one window.
    """
    if length < 2 or count < 1:
        raise UsageError(
            f"{count} windows of {length} tokens can't be made", hint="ask for 1 or more of 2 tokens or more"
        )
    body = length - (bos is not None)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    ids: list[int] = []
    for index in order:
        if len(ids) >= body * count:
            break
        ids += documents[index]
    made = min(count, len(ids) // body)
    if not made:
        raise DataError(
            f"the calibration text has {len(ids)} tokens, one window needs {body}",
            hint="give more text or shorter windows",
        )
    return _with_bos(torch.tensor(ids[: made * body], dtype=torch.int64).view(made, body), bos)


def calibration_windows(tokenizer: Encoder, documents: Sequence[str], length: int, count: int, seed: int) -> Tensor:
    """`windows` of texts; only as many documents as are needed are tokenised."""
    return windows(_Encoded(tokenizer, documents), length, count, tokenizer.bos, seed)


def evaluation_windows(tokenizer: Encoder, text: str, tokens: int | None = None, window: int = 1024) -> Tensor:
    """Windows of a text in which every token is predicted once.

    A window is the beginning-of-sequence token and ``window - 1`` tokens of text; the next one starts where it
    ends (stride ``window - 1``), and what does not fill a window at the end of the text is left out. For models
    without such a token a window starts with the last token of the one before, so window, stride and number of
    predictions are the same.

    Args:
        tokenizer: of the model.
        text: the whole text.
        tokens: predictions wanted, rounded up to whole windows; None for all of the text.
        window: length of a window.

    Returns:
        int64 (windows, window).

    Raises:
        UsageError: a window shorter than 2, or less than one token.
        DataError: the text does not fill one window.
    """
    if window < 2 or (tokens is not None and tokens < 1):
        raise UsageError(
            f"{tokens} tokens in windows of {window} can't be evaluated", hint="a window has 2 tokens or more"
        )
    ids = torch.tensor(tokenizer.encode(text), dtype=torch.int64)
    stride = window - 1
    count = (len(ids) - (tokenizer.bos is None)) // stride
    if count < 1:
        raise DataError(
            f"the text has {len(ids)} tokens, one window needs {window}", hint="give more text or a shorter window"
        )
    count = count if tokens is None else min(count, -(-tokens // stride))
    if tokenizer.bos is None:
        return ids[: count * stride + 1].unfold(0, window, stride).contiguous()
    return _with_bos(ids[: count * stride].view(count, stride), tokenizer.bos)


def digest(windows: Tensor) -> str:
    """SHA-256 of windows, in hex: shape and ids."""
    raw = windows.to(torch.int64).contiguous().numpy().astype("<i8").tobytes()
    return hashlib.sha256(f"{tuple(windows.shape)}\0".encode() + raw).hexdigest()


def _with_bos(body: Tensor, bos: int | None) -> Tensor:
    return body if bos is None else torch.cat([torch.full((len(body), 1), bos, dtype=torch.int64), body], dim=1)


class _Encoded(Sequence[Sequence[int]]):
    """Texts that are tokenised when they are asked for."""

    def __init__(self, tokenizer: Encoder, texts: Sequence[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> Sequence[int]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[int]]: ...

    def __getitem__(self, index: int | slice) -> Sequence[int] | Sequence[Sequence[int]]:
        if isinstance(index, slice):
            return [self.tokenizer.encode(text) for text in self.texts[index]]
        return self.tokenizer.encode(self.texts[index])
