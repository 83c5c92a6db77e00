from __future__ import annotations

import pytest
import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.tasks.text import calibration_windows, digest, evaluation_windows, windows


class Letters:
    """A tokenizer with one token a letter."""

    def __init__(self, bos: int | None) -> None:
        self.bos = bos
        self.seen: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.seen.append(text)
        return [ord(letter) for letter in text]


def test_every_window_starts_with_bos_and_the_rest_is_the_documents_in_some_order() -> None:
    documents = [[10 * i + j for j in range(5)] for i in range(1, 9)]
    made = windows(documents, 11, 4, bos=0, seed=3)
    assert made.shape == (4, 11) and made.dtype == torch.int64
    assert (made[:, 0] == 0).all()
    body = made[:, 1:].reshape(-1, 5).tolist()
    assert sorted(body) == documents
    assert body != documents


def test_same_seed_same_windows() -> None:
    documents = [[i] * 7 for i in range(50)]
    first = windows(documents, 8, 10, bos=None, seed=1)
    assert torch.equal(first, windows(documents, 8, 10, bos=None, seed=1))
    assert digest(first) == digest(first.clone())
    assert digest(first) != digest(windows(documents, 8, 10, bos=None, seed=2))
    assert digest(first) != digest(first.view(8, 10))


def test_too_little_text_gives_what_there_is() -> None:
    assert windows([[1] * 25], 11, 100, bos=0, seed=0).shape == (2, 11)
    with pytest.raises(DataError, match="has 9 tokens, one window needs 10"):
        windows([[1] * 9], 11, 1, bos=0, seed=0)
    with pytest.raises(DataError):
        windows([], 11, 1, bos=0, seed=0)
    with pytest.raises(UsageError):
        windows([[1] * 25], 1, 1, bos=0, seed=0)


def test_only_needed_documents_are_tokenised() -> None:
    tokenizer = Letters(bos=0)
    texts = ["abcdefghij" * 10] * 100
    assert calibration_windows(tokenizer, texts, 51, 4, seed=0).shape == (4, 51)
    assert len(tokenizer.seen) == 2


def test_evaluation_windows_predict_every_token_once() -> None:
    text = "".join(chr(100 + i) for i in range(23))
    ids = [ord(letter) for letter in text]
    made = evaluation_windows(Letters(bos=0), text, None, window=6)
    assert (made[:, 0] == 0).all()
    assert made[:, 1:].reshape(-1).tolist() == ids[:20]
    bare = evaluation_windows(Letters(bos=None), text, None, window=6)
    assert bare[:, 1:].reshape(-1).tolist() == ids[1:21]
    assert bare[:, 0].tolist() == ids[0:20:5]


def test_evaluation_tokens_are_rounded_up_to_windows() -> None:
    for tokens, count in ((1, 1), (5, 1), (6, 2), (10**9, 4)):
        assert len(evaluation_windows(Letters(bos=0), "x" * 23, tokens, window=6)) == count
    with pytest.raises(DataError, match="one window needs 6"):
        evaluation_windows(Letters(bos=0), "xxxx", None, window=6)
    with pytest.raises(UsageError):
        evaluation_windows(Letters(bos=0), "xxxx", 0, window=6)
