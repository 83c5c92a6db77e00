"""``tokenizer.ggml.*`` keys from a tokenizer.json: the way back of `checkpoint.gguf_tokenizer`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tailorbird.checkpoint.gguf_tokenizer import (
    BYTE,
    CONTROL,
    LLAMA3_SPLIT,
    NORMAL,
    QWEN2_SPLIT,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from tailorbird.errors import ModelError

_PRE = {None: "gpt-2", LLAMA3_SPLIT: "llama-bpe", QWEN2_SPLIT: "qwen2"}
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def vocabulary(data: bytes, settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Keys of a vocabulary.

    Args:
        data: content of tokenizer.json.
        settings: of tokenizer_config.json.
        rows: of the embedding; ids beyond the vocabulary are filled with unused tokens.

    Raises:
        ModelError: a kind of tokenizer that llama.cpp does not have.
    """
    try:
        tokenizer = json.loads(data)
        kind = tokenizer["model"].get("type")
        if kind != "BPE":
            raise _unsupported(f"a model of type {kind!r}")
        tokens, types = _tokens(tokenizer, rows)
        pieces = _sentencepiece if tokenizer["model"].get("byte_fallback") else _byte_level
        keys = pieces(tokenizer, tokens, types)
        return {f"tokenizer.ggml.{key}": value for key, value in (keys | _special(tokenizer, settings, tokens)).items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as cause:
        raise ModelError(
            f"tokenizer.json can't be written as GGUF: {type(cause).__name__}: {cause}", hint="make the artifact again"
        ) from cause


def _tokens(tokenizer: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Tokens and their types, by id."""
    ids: dict[int, str] = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    ids |= {index: token["content"] for index, token in added.items()}
    if max(ids, default=-1) >= rows:
        raise ModelError(f"the tokenizer has the id {max(ids)}, the embedding {rows} rows", hint="check the model")
    tokens = [ids.get(index, f"[PAD{index}]") for index in range(rows)]
    types = [NORMAL if index in ids else UNUSED for index in range(rows)]
    for index, token in added.items():
        types[index] = CONTROL if token.get("special") else USER_DEFINED
    return tokens, types


def _sentencepiece(tokenizer: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    """Merges become scores: the sooner a piece is made the higher; those never made need none."""
    unknown = tokenizer["model"].get("unk_token")
    for index, token in enumerate(tokens):
        if token == unknown:
            types[index] = UNKNOWN
        elif types[index] == NORMAL and _BYTE_TOKEN.fullmatch(token):
            types[index] = BYTE
        elif types[index] == USER_DEFINED:  # found in a text before its spaces are marked
            tokens[index] = token.replace(SPACE, " ")
    ranks: dict[str, int] = {}
    for left, right in _merges(tokenizer):
        ranks.setdefault(left + right, len(ranks))
    last = len(ranks)
    plain = (NORMAL, USER_DEFINED)
    scores = [
        -float(ranks.get(token, last)) if kind in plain else 0.0 for token, kind in zip(tokens, types, strict=True)
    ]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        "add_space_prefix": _adds_prefix(tokenizer),
    }


def _byte_level(tokenizer: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    merges = [f"{left} {right}" for left, right in _merges(tokenizer)]
    return {"model": "gpt2", "pre": _pre(tokenizer), "tokens": tokens, "token_type": types, "merges": merges}


def _pre(tokenizer: Mapping[str, Any]) -> str:
    """Name of the rule by which text is split first."""
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    pattern = patterns[0] if patterns else None
    if len(steps) != len(patterns) + 1 or len(levels) != 1 or len(patterns) > 1 or pattern not in _PRE:
        raise _unsupported("this pre-tokenizer")
    if levels[0].get("add_prefix_space") or levels[0].get("use_regex", True) != (pattern is None):
        raise _unsupported("this pre-tokenizer")
    return _PRE[pattern]


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs; older files write them as one string."""
    found = []
    for merge in tokenizer["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def _adds_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """A text gets a space before it."""
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    metaspace = [s for s in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers") if s["type"] == "Metaspace"]
    schemes = [step.get("prepend_scheme", "always") for step in metaspace]
    return any(step["type"] == "Prepend" for step in normalizers) or any(scheme != "never" for scheme in schemes)


def _steps(step: Any, name: str) -> list[dict[str, Any]]:
    if not step:
        return []
    return list(step[name]) if step.get("type") == "Sequence" else [step]


def _special(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Ids of special tokens, and which of them a text gets."""
    keys: dict[str, Any] = {}
    for ours, theirs in _SPECIAL.items():
        token = settings.get(f"{ours}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is None and ours == "unk":
            token = tokenizer["model"].get("unk_token")
        if token is not None and token in tokens:
            keys[f"{theirs}_token_id"] = tokens.index(token)
    before, after = _template(tokenizer)
    keys["add_bos_token"] = bool(before) and before[0] == keys.get("bos_token_id")
    keys["add_eos_token"] = bool(after) and after[-1] == keys.get("eos_token_id")
    return keys


def _template(tokenizer: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Ids of the special tokens before and after a text."""
    before: list[int] = []
    after: list[int] = []
    for step in _steps(tokenizer.get("post_processor"), "processors"):
        if step["type"] != "TemplateProcessing":
            continue
        ids = {name: token["ids"] for name, token in step["special_tokens"].items()}
        seen = False
        for item in step["single"]:
            if "Sequence" in item:
                seen = True
            else:
                (after if seen else before).extend(ids[item["SpecialToken"]["id"]])
    return before, after


def _unsupported(what: str) -> ModelError:
    return ModelError(
        f"the tokenizer has {what}, which can't be written as GGUF",
        hint="byte-level BPE as in GPT-2, Llama 3 and Qwen 2, and SentencePiece BPE can",
    )
