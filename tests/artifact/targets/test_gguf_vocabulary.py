"""Tokenizers written as GGUF keys and read back cut texts as before."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tailorbird.artifact.targets.gguf_vocabulary import vocabulary
from tailorbird.checkpoint.gguf_reader import GgufFile
from tailorbird.checkpoint.gguf_tokenizer import LLAMA3_SPLIT, QWEN2_SPLIT, tokenizer_files
from tailorbird.errors import ModelError

TINY = runpy.run_path(str(Path(__file__).parents[2] / "pipeline" / "tiny.py"))
TEXTS = [
    *("The tailorbird stitches leaves", "  two spaces,  then   three", "line\n\n\nline\ttab ", "IT'S 12345 l'été"),
    *("\u6f22\u5b57 \U0001f600 na\u00efve", "", " ", "x<s>y</s>", "nest<extra>nest", "e\u0301 caf\u00e9"),
]
SETTINGS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}
ROWS = 900


def byte_level(split: str | None) -> Tokenizer:
    made = Tokenizer(models.BPE(ignore_merges=split == LLAMA3_SPLIT))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    made.pre_tokenizer = (
        level if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level])
    )
    if split == QWEN2_SPLIT:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TINY["TEXT"]], trainer)
    return finished(made)


def sentencepiece(prefix: bool) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    mark = normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), mark]) if prefix else mark
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=["<unk>", "<s>", "</s>", *bytes_], max_token_length=9, show_progress=False
    )
    made.train_from_iterator([*TINY["TEXT"].split(". "), "a  b   c    d"], trainer)
    data = json.loads(made.to_str())  # the trainer made all of them special; bytes are ordinary pieces
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < 3]
    return finished(Tokenizer.from_str(json.dumps(data)))


def finished(made: Tokenizer) -> Tokenizer:
    made.add_tokens([AddedToken("<extra>", normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


CASES: dict[str, tuple[Callable[[], Tokenizer], str, str]] = {
    "gpt-2": (lambda: byte_level(None), "llama", "gpt-2"),
    "llama 3": (lambda: byte_level(LLAMA3_SPLIT), "llama", "llama-bpe"),
    "qwen 2": (lambda: byte_level(QWEN2_SPLIT), "qwen2", "qwen2"),
    "llama 2": (lambda: sentencepiece(True), "llama", "default"),
    "gemma": (lambda: sentencepiece(False), "gemma3", "default"),
}


def keys(made: Tokenizer, rows: int = ROWS, settings: Any = SETTINGS) -> dict[str, Any]:
    return vocabulary(made.to_str().encode(), settings, rows)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str) -> None:
    make, arch, pre = CASES[case]
    made = make()
    found = keys(made)
    assert found["tokenizer.ggml.pre"] == pre and len(found["tokenizer.ggml.tokens"]) == ROWS
    assert found["tokenizer.ggml.bos_token_id"] == made.token_to_id("<s>")
    assert found["tokenizer.ggml.eos_token_id"] == made.token_to_id("</s>")
    assert found["tokenizer.ggml.add_bos_token"] and not found["tokenizer.ggml.add_eos_token"]
    metadata = {"general.architecture": arch, f"{arch}.context_length": 64, **found}
    files = tokenizer_files(GgufFile(Path("made.gguf"), metadata, {}))
    back = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
    for text in TEXTS:
        assert back.encode(text).tokens == made.encode(text).tokens, text
        assert back.encode(text).ids == made.encode(text).ids
        assert back.decode(back.encode(text).ids) == made.decode(made.encode(text).ids)


def test_types_of_tokens() -> None:
    made = sentencepiece(True)
    made.add_tokens([AddedToken("\u2581\u2581<x>", normalized=False)])
    found = keys(made)
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["<unk>"], types["<s>"], types["<extra>"], types["<0x0A>"], types["[PAD899]"]) == (2, 3, 4, 6, 5)
    assert types["  <x>"] == 4 and types["\u2581"] == 1  # user-defined tokens are looked up before spaces are marked
    assert found["tokenizer.ggml.add_space_prefix"] and found["tokenizer.ggml.unknown_token_id"] == 0


def refused(data: Any, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        vocabulary(data if isinstance(data, bytes) else json.dumps(data).encode(), SETTINGS, ROWS)
    assert all(word in caught.value.message for word in words) and caught.value.hint


def test_refused() -> None:
    made = json.loads(byte_level(None).to_str())
    refused(made | {"model": made["model"] | {"type": "Unigram"}}, "a model of type 'Unigram'")
    refused(made | {"pre_tokenizer": {"type": "Whitespace"}}, "this pre-tokenizer")
    refused(made | {"pre_tokenizer": made["pre_tokenizer"] | {"add_prefix_space": True}}, "this pre-tokenizer")
    refused(made | {"model": made["model"] | {"merges": ["one two three"]}}, "tokenizer.json can't be written")
    refused({}, "tokenizer.json can't be written")
    refused(b"[", "tokenizer.json can't be written")
    with pytest.raises(ModelError, match=r"the id \d+, the embedding 7 rows"):
        keys(byte_level(None), rows=7)
