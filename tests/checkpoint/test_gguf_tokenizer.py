"""Tokenizers rebuilt from GGUF vocabularies: the same tokens as transformers' own, far slower rebuild."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError

WriteGguf = Callable[..., Path]
TEXTS = [
    "the cat sat on the mat",
    "hat   that\n\n\nthe  <end> 12345 don't",
    "café 漢字 😀\tthe\r\n x",
    "def f(x):\n    return x  # they're\n",
    "",
]
SPACE = "\u2581"


def sentencepiece(gemma: bool) -> dict[str, Any]:
    words = [
        "th",
        "at",
        SPACE + "t",
        "he",
        "the",
        SPACE + "the",
        "cat",
        SPACE + "th",
        "hat",
        "on",
        "mat",
        "sat",
    ]
    letters = [*"abcdefghijklmnopqrstuvwxyz.,'()#:", SPACE]
    extra = ["\n", "\n\n", *(" " * count if gemma else SPACE * count for count in (2, 3, 4)), "<end>"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *extra, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokens += letters
    types = [
        3,
        3,
        3,
        2 if not gemma else 3,
        *[4 if gemma else 1] * 5,
        3,
        *[6] * 256,
        *[1] * (len(tokens) - 266),
    ]
    scores = [0.0] * 4 + [-1000.0 if gemma else -0.5 * k for k in range(6)] + [0.0] * 256
    scores += [-float(rank) for rank in range(len(tokens) - 266)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": not gemma,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def byte_level(pre: str) -> dict[str, Any]:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "a t", "th e", "Ġ the", "Ġ t", "h at", "1 2", "12 3", "Ċ Ċ", "Ġ Ġ", "' t"]
    tokens = [*alphabet, *(merge.replace(" ", "") for merge in merges), "<end>", "<think>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [3, 4],
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eot_token_id": len(tokens) - 1,
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.add_bos_token": pre == "llama-bpe",
    }


@pytest.fixture
def build(write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path) -> Callable[..., Any]:
    def build(vocabulary: dict[str, Any], arch: str = "llama") -> Any:
        tensors = dict(llama_tensors)
        metadata = {**llama_metadata, **vocabulary}
        if arch == "gemma3":
            metadata |= {"ARCH.attention.key_length": 8, "ARCH.attention.sliding_window": 8}
            norms = {"post_attention_norm": 32, "post_ffw_norm": 32, "attn_q_norm": 8, "attn_k_norm": 8}
            tensors |= {f"blk.0.{name}.weight": np.ones(size, np.float32) for name, size in norms.items()}
        path = write_gguf(arch, metadata, tensors, "vocabulary.gguf")
        folder = open_checkpoint(path, cache=tmp_path / "cache").folder
        return AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)

    return build


@pytest.mark.parametrize("gemma", [True, False])
def test_sentencepiece(build: Callable[..., Any], gemma: bool) -> None:
    ours, theirs = build(sentencepiece(gemma), "gemma3" if gemma else "llama")
    for text in TEXTS:
        # After a control token transformers leaves the prefix out; llama.cpp puts it there, too.
        text = text if gemma else text.replace("<end>", "")
        assert ours(text).input_ids == theirs(text).input_ids, text
        assert ours(text).input_ids[0] == 2
        plain = ours(text, add_special_tokens=False).input_ids
        assert ours.decode(plain) == text
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == text.replace("<end>", "")
    assert (ours.bos_token, ours.eos_token, ours.pad_token, ours.unk_token) == (
        "<bos>",
        "<eos>",
        "<pad>",
        "<unk>",
    )
    assert ours.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_a_leading_space_is_kept_apart_from_the_prefix(build: Callable[..., Any]) -> None:
    ours, _ = build(sentencepiece(gemma=False))
    assert ours.tokenize(" the") == [SPACE * 2, "the"]  # as SentencePiece: the prefix comes always
    assert ours.decode(ours(" the", add_special_tokens=False).input_ids) == " the"
    assert ours.tokenize("at<end>at") == [SPACE, "at", "<end>", SPACE, "at"]


def test_byte_and_control_tokens_are_not_words(build: Callable[..., Any]) -> None:
    ours, _ = build(sentencepiece(gemma=True), "gemma3")
    assert len(ours("<0x41>", add_special_tokens=False).input_ids) > 1
    assert ours("<end>", add_special_tokens=False).input_ids == [9]


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe"])
def test_byte_level(build: Callable[..., Any], pre: str) -> None:
    ours, theirs = build(byte_level(pre))
    for text in TEXTS:
        want = theirs(text, add_special_tokens=False).input_ids
        assert ours(text, add_special_tokens=False).input_ids == want, text
        assert ours.decode(want) == text
    first = ours("the").input_ids[0]
    assert (first == ours.bos_token_id) == (pre == "llama-bpe")


def test_generation_config(write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path) -> None:
    vocabulary = byte_level("qwen2")
    path = write_gguf("llama", {**llama_metadata, **vocabulary}, llama_tensors)
    folder = open_checkpoint(path, cache=tmp_path / "cache").folder
    end = len(vocabulary["tokenizer.ggml.tokens"]) - 2
    text = (folder / "generation_config.json").read_text()
    assert f'"bos_token_id": {end}' in text and str(end + 1) in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.pre": "mystery"}, "pre-tokenizer 'mystery' is not supported"),
        ({"tokenizer.ggml.merges": ["t zzz"]}, "merge 't zzz' is not in the vocabulary"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "2 token types"),
        ({"tokenizer.ggml.bos_token_id": 9999}, "bos token 9999"),
        ({"tokenizer.ggml.tokens": "x"}, "is not in the vocabulary|wrong kind"),
    ],
)
def test_damaged_vocabularies(
    change: dict[str, Any],
    words: str,
    write_gguf: WriteGguf,
    llama_metadata: Any,
    llama_tensors: Any,
    tmp_path: Path,
) -> None:
    path = write_gguf("llama", {**llama_metadata, **byte_level("qwen2"), **change}, llama_tensors)
    with pytest.raises(ModelError, match=words):
        open_checkpoint(path, cache=tmp_path / "cache")
