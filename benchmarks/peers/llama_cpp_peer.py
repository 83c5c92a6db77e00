"""llama.cpp through llama-cpp-python: its own quantiser on a 16-bit GGUF, scored by its own kernels."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf_header
import llama_cpp
import numpy as np
import protocol
import torch
from imatrix import HEAD, Importance

PEER = "llama.cpp"
VERSION = f"llama-cpp-python {llama_cpp.__version__}"
_BATCH = 512
FULL: Literal["imatrix+embedding"] = "imatrix+embedding"


@dataclass(frozen=True)
class Recipe:
    """One way to call llama.cpp's quantiser.

    `pure` gives every matrix, the tied embedding too, the one type; otherwise llama.cpp mixes types, and
    leaves the embedding at 8 bits when its rows don't divide into the type's blocks; `head` asks for another.
    `importance` says whether an importance matrix is used, and whether the embedding is in it (llama.cpp's
    own tool leaves it out by default).
    """

    ftype: str
    importance: Literal["", "imatrix", "imatrix+embedding"] = ""
    pure: bool = False
    head: str | None = None

    @property
    def name(self) -> str:
        shape = "pure" if self.pure else f"embedding {self.head}" if self.head else ""
        return " ".join(filter(None, [self.ftype, shape, self.importance]))


def _recipes() -> list[Recipe]:
    """The most telling first, so that an interrupted run already says something."""
    first = [
        Recipe("Q4_0", pure=True),
        Recipe("IQ4_NL", FULL, pure=True),
        Recipe("Q3_K_M"),
        Recipe("Q2_K"),
        *(Recipe(kind, "imatrix") for kind in ("Q4_K_M", "IQ4_XS", "IQ3_M", "IQ2_XS", "Q3_K_M", "Q2_K")),
        *(Recipe(kind, FULL, head="IQ4_NL") for kind in ("Q4_K_M", "IQ2_XS")),
    ]
    rest = [
        *(Recipe(kind, FULL, pure=True) for kind in ("Q5_0", "Q4_0")),
        *(Recipe(kind, "imatrix") for kind in ("IQ4_NL", "IQ3_XXS", "IQ2_M", "Q4_0")),
        *(Recipe(kind) for kind in ("Q4_0", "Q8_0", "Q5_K_M")),
        Recipe("IQ4_NL", pure=True),
        Recipe("Q2_K", FULL, head="IQ4_NL"),
        # llama.cpp has no fast product for it: it takes longer than all the others.
        Recipe("Q2_0", FULL, pure=True),
    ]
    return first + rest


RECIPES = _recipes()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: Any) -> None:
    """llama.cpp writes a line per tensor; an error still shows as an exception here."""


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


def _importance_array(importance: Importance) -> Any:
    """The C array that llama.cpp takes: entries of name, data, size, closed by an entry without a name."""
    array = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return array


def quantise(source: Path, target: Path, recipe: Recipe, importance: Importance, threads: int) -> float:
    """Write `target` with llama.cpp's quantiser; returns the seconds it took.

    Raises:
        RuntimeError: llama.cpp refused.
    """
    began = time.monotonic()
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.pure, options.allow_requantize = threads, recipe.pure, True
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{recipe.ftype}")
    if recipe.head:  # a tied embedding takes the type of the output
        options.output_tensor_type = getattr(llama_cpp, f"GGML_TYPE_{recipe.head}")
    used = {name: v for name, v in importance.items() if name != HEAD or recipe.importance == FULL}
    array = _importance_array(used)
    if recipe.importance:
        options.imatrix = array
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)):
        target.unlink(missing_ok=True)
        raise RuntimeError(f"llama.cpp could not make {recipe.name} from {source}")
    return time.monotonic() - began


def sixteen_bits(gguf: Path, folder: Path, threads: int) -> Path:
    """The demo file dequantised to F16, which every type is made from."""
    target = folder / "f16.gguf"
    if not target.exists():
        aside = folder / "f16.partial.gguf"
        quantise(gguf, aside, Recipe("F16", pure=True), {}, threads)
        aside.replace(target)
    return target


@contextmanager
def _context(path: Path, threads: int) -> Iterator[tuple[Any, Any, int]]:
    settings = llama_cpp.llama_model_default_params()
    handle = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not handle:
        raise RuntimeError(f"llama.cpp could not load {path}")
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = protocol.WINDOW, _BATCH, _BATCH
    options.n_threads = options.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(handle, options)
    batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(handle))
    try:
        yield context, batch, vocabulary
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(handle)


def perplexity(path: Path, cut: protocol.Ids, threads: int) -> float:
    """Perplexity of a GGUF file by llama.cpp's CPU kernels, which round activations to 8 bits too."""
    with _context(path, threads) as (context, batch, vocabulary):

        def score(window: protocol.Ids) -> float:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            total, last = 0.0, len(window) - 1
            for start in range(0, last, _BATCH):
                end = min(start + _BATCH, last)
                logits = _decode(context, batch, window[start:end], start, vocabulary)
                total += protocol.nll(logits, torch.from_numpy(window[start + 1 : end + 1]))
            return total

        return protocol.perplexity(score, cut)


def _decode(context: Any, batch: Any, tokens: protocol.Ids, start: int, vocabulary: int) -> torch.Tensor:
    """Logits (tokens x vocabulary) of the next stretch of a window; a view that the next call overwrites."""
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens.tolist()):
        batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError("llama.cpp could not run a window")
    pointer = llama_cpp.llama_get_logits(context)
    return torch.from_numpy(np.ctypeslib.as_array(pointer, shape=(len(tokens), vocabulary)))


def tokenise(path: Path, text: str) -> list[int]:
    """llama.cpp's own tokens of a text, without special ones."""
    reader = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return list(reader.tokenize(text.encode(), add_bos=False, special=False))


def row(
    path: Path, kind: str, weights: int, cut: protocol.Ids, threads: int, seconds: float, note: str = ""
) -> protocol.Row:
    """Score a file and count its bytes."""
    began = time.monotonic()
    value = perplexity(path, cut, threads)
    header, size = gguf_header.read(path), path.stat().st_size
    shares = ", ".join(f"{t} {n / weights:.0%}" for t, n in header.weights.most_common() if t != "F32")
    return protocol.Row(
        peer=PEER,
        version=VERSION,
        type=kind,
        bytes=size,
        weight_bytes=header.tensor_bytes,
        bits=size * 8 / weights,
        weight_bits=header.tensor_bytes * 8 / weights,
        perplexity=value,
        tokens=cut.shape[0] * (cut.shape[1] - 1),
        seconds=round(seconds, 1),
        evaluation_seconds=round(time.monotonic() - began, 1),
        note="; ".join(filter(None, [f"embedding {header.types[HEAD]}", f"weights: {shares}", note])),
        types=dict(header.weights),
    )
