"""tokenizer.json from a GGUF vocabulary, written directly in the `tokenizers` library's JSON form.

SentencePiece vocabularies (``tokenizer.ggml.model = llama``) list pieces and scores but no merges: a merge
is any split of a piece into two pieces, ranked by the piece it makes (Kudo and Richardson 2018,
arXiv:1808.06226). Byte-level vocabularies (``gpt2``) list their merges; how text is split first is named by
``tokenizer.ggml.pre``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailorbird.checkpoint.gguf_reader import GgufFile
from tailorbird.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
_GEMMA = ("gemma", "gemma2", "gemma3")
_OTHER_WAY = "give the original Hugging Face folder or id instead of the GGUF file"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
QWEN2_SPLIT = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
SPLITS: dict[str, str | None] = {
    "default": None,  # None: GPT-2's own rule, which the library has built in
    "gpt-2": None,
    "gpt2": None,
    "llama-bpe": LLAMA3_SPLIT,
    "llama3": LLAMA3_SPLIT,
    "llama-v3": LLAMA3_SPLIT,
    "smaug-bpe": LLAMA3_SPLIT,
    "dbrx": LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
    "deepseek-r1-qwen": QWEN2_SPLIT,
}


def tokenizer_files(file: GgufFile) -> dict[str, Any]:
    """The tokenizer's files by name, as plain data; none for a GGUF without a vocabulary.

    Raises:
        ModelError: an unsupported kind of tokenizer, or lists that don't fit together.
    """
    kind = file.metadata.get("tokenizer.ggml.model", "no_vocab")
    if kind in ("no_vocab", "none"):
        return {}
    builders: dict[str, Callable[[GgufFile], dict[str, Any]]] = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in builders:
        raise ModelError(f"{file.path}: the tokenizer {kind!r} is not supported", hint=_OTHER_WAY)
    parts = builders[kind](file)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(file, parts["model"]["vocab"]),
        "post_processor": _with_bos(file, parts.pop("post_processor", None)),
        **parts,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": _tokenizer_config(file)}


def generation_config(file: GgufFile) -> dict[str, Any]:
    """Start, end and padding tokens; the end of a turn ends a text, too."""
    ends = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    config = {
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(dict.fromkeys(end for end in ends if end is not None)) or None,
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {name: value for name, value in config.items() if value is not None}


def _sentencepiece(file: GgufFile) -> dict[str, Any]:
    gemma = file.value("general.architecture") in _GEMMA
    tokens = _tokens(file)
    if gemma:  # runs of spaces are stored as such, but looked up after spaces became the visible mark
        tokens = [SPACE * len(token) if token.strip(" ") == "" else token for token in tokens]
    if "tokenizer.ggml.merges" in file.metadata:
        merges = _given_merges(file, tokens)
    else:
        merges = _derived_merges(tokens, _types(file), _ranks(file, tokens, gemma=gemma))
    prefix = not gemma and bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    unmark = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if prefix else replace,
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": _bpe(tokens, merges, unk_token=_token(file, "unknown"), fuse_unk=True, byte_fallback=True),
    }


def _byte_level(file: GgufFile) -> dict[str, Any]:
    pre = file.metadata.get("tokenizer.ggml.pre", "default")
    if pre not in SPLITS:
        raise ModelError(
            f"{file.path}: the pre-tokenizer {pre!r} is not supported (supported: {', '.join(SPLITS)})",
            hint=_OTHER_WAY,
        )
    tokens, split = _tokens(file), SPLITS[pre]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": split is None,
    }
    splitter = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": {"type": "NFC"} if split == QWEN2_SPLIT else None,
        "pre_tokenizer": level
        if split is None
        else {"type": "Sequence", "pretokenizers": [splitter, {**level, "use_regex": False}]},
        "post_processor": {**level, "use_regex": True},
        "decoder": {**level, "use_regex": True},
        # Llama 3 takes a word that is in the vocabulary whole, even where merges wouldn't lead to it.
        "model": _bpe(tokens, _given_merges(file, tokens), ignore_merges=split == LLAMA3_SPLIT),
    }


def _bpe(tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> dict[str, Any]:
    defaults = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return {**defaults, **options, "vocab": vocabulary, "merges": merges}


def _ranks(file: GgufFile, tokens: list[str], *, gemma: bool) -> list[float]:
    """The sooner a piece is to be made the smaller its rank.

    Gemma numbers its pieces in the order of merging, and its user-defined ones carry no usable score.
    """
    if gemma:
        return list(map(float, range(len(tokens))))
    scores = file.value("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ModelError(f"{file.path}: {len(tokens)} tokens but {len(scores)} scores", hint="fetch the file again")
    return [-score for score in scores]


def _derived_merges(tokens: list[str], types: list[int], ranks: list[float]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best piece first; of equal rank, the longer left part first."""
    pieces = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (NORMAL, USER_DEFINED, UNUSED)  # control, unknown and byte tokens are never put together
    }
    found = [
        (ranks[index], -cut, cut - len(token), index)
        for token, index in pieces.items()
        for cut in range(1, len(token))
        if token[:cut] in pieces and token[cut:] in pieces
    ]
    found.sort()
    return [(tokens[index][:-cut], tokens[index][-cut:]) for _, cut, _, index in found]


def _given_merges(file: GgufFile, tokens: list[str]) -> list[tuple[str, str]]:
    known, merges = set(tokens), []
    for merge in file.value("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise ModelError(
                f"{file.path}: the merge {merge[:80]!r} is not in the vocabulary",
                hint="fetch the GGUF file again",
            )
        merges.append((left, right))
    return merges


def _tokens(file: GgufFile) -> list[str]:
    tokens: list[str] = file.value("tokenizer.ggml.tokens")
    return tokens


def _types(file: GgufFile) -> list[int]:
    count = len(_tokens(file))
    types: list[int] = file.metadata.get("tokenizer.ggml.token_type") or [NORMAL] * count
    if len(types) != count:
        raise ModelError(f"{file.path}: {count} tokens but {len(types)} token types", hint="fetch the file again")
    return types


def _added_tokens(file: GgufFile, vocabulary: dict[str, int]) -> list[dict[str, Any]]:
    """Control and user-defined tokens, which are found in a text before anything else happens to it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": token, **flags, "special": kind == CONTROL}
        for index, (token, kind) in enumerate(zip(_tokens(file), _types(file), strict=True))
        if kind in (CONTROL, USER_DEFINED) and vocabulary.get(token) == index
    ]


def _token(file: GgufFile, name: str) -> str | None:
    index = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
    tokens = _tokens(file)
    if index is not None and not 0 <= index < len(tokens):
        raise ModelError(f"{file.path}: the {name} token {index} is not in the vocabulary", hint="fetch it again")
    return None if index is None else tokens[index]


def _adds(file: GgufFile, name: str) -> bool:
    """Whether a text gets the token; SentencePiece files that don't say so start texts with BOS."""
    default = name == "bos" and file.value("tokenizer.ggml.model") == "llama"
    return bool(file.metadata.get(f"tokenizer.ggml.add_{name}_token", default)) and _token(file, name) is not None


def _with_bos(file: GgufFile, inner: dict[str, Any] | None) -> dict[str, Any] | None:
    names = [name for name in ("bos", "eos") if _adds(file, name)]
    if not names:
        return inner
    special = {name: str(_token(file, name)) for name in names}
    template: dict[str, Any] = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    for target, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        for kind, sequence in enumerate(sequences):
            text = {"Sequence": {"id": sequence, "type_id": kind}}
            marks = {name: {"SpecialToken": {"id": token, "type_id": kind}} for name, token in special.items()}
            template[target] += [mark for mark in (marks.get("bos"), text, marks.get("eos")) if mark]
    for name, token in special.items():
        index = file.metadata[f"tokenizer.ggml.{name}_token_id"]
        template["special_tokens"][token] = {"id": token, "ids": [index], "tokens": [token]}
    return {"type": "Sequence", "processors": [inner, template]} if inner else template


def _tokenizer_config(file: GgufFile) -> dict[str, Any]:
    context = file.metadata.get(f"{file.value('general.architecture')}.context_length")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": _adds(file, "bos"),
        "add_eos_token": _adds(file, "eos"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "bos_token": _token(file, "bos"),
        "eos_token": _token(file, "eos"),
        "unk_token": _token(file, "unknown"),
        "pad_token": _token(file, "padding"),
        "chat_template": file.metadata.get("tokenizer.chat_template"),
    }
    return {name: value for name, value in config.items() if value is not None}
