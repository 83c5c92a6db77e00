"""Converting a GGUF file, once, into a cached folder in the Hugging Face layout.

Everything after this sees an ordinary folder. Tensors stream through in pieces of a few million weights, so
the memory needed doesn't grow with the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.checkpoint.cache import cache_folder, cached, file_key
from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.checkpoint.folder import open_folder
from tailorbird.checkpoint.gguf_blocks import decode, row_bytes
from tailorbird.checkpoint.gguf_config import common_config, head_dim, number
from tailorbird.checkpoint.gguf_families import Family, family_of, permuted, tensor_names
from tailorbird.checkpoint.gguf_reader import GgufFile, GgufTensor, read_gguf
from tailorbird.checkpoint.gguf_tokenizer import generation_config, tokenizer_files
from tailorbird.checkpoint.shards import ShardWriter
from tailorbird.errors import ModelError
from tailorbird.files import write_atomic, write_json

CONVERTER_VERSION = 1
SHARD_BYTES = 512 * 2**20
_PIECE = 2**22  # weights decoded at a time

Floats = npt.NDArray[np.float32]


def open_gguf(path: Path, source: str, *, cache: Path | None = None) -> Checkpoint:
    """Open a GGUF file through its conversion, which is made when it isn't in the cache yet.

    Args:
        path: the file.
        source: the model as the user named it.
        cache: root of the cache, see `cache_folder`.

    Raises:
        ModelError: damaged, or of an unsupported architecture, type or tokenizer.
        ResourceError: the disk is full.
    """
    try:
        key = f"gguf-{file_key(path, CONVERTER_VERSION)}"
    except OSError as cause:
        raise ModelError(f"{path} can't be read: {cause}", hint="check the path and its permissions") from cause
    return open_converted(cache_folder(cache) / key, source, partial(convert, path))


def open_converted(folder: Path, source: str, build: Callable[[Path], None]) -> Checkpoint:
    """Open a cached folder, building it first where it is absent.

    Raises:
        ModelError: what `build` raises, or a cached folder that was damaged since.
    """
    cached(folder.parent, folder.name, build)
    try:
        return open_folder(folder, source)
    except ModelError as cause:
        raise ModelError(cause.message, hint=f"remove {folder}, a cached conversion, and run again") from cause


def convert(path: Path, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the model in `path` into the empty `folder`: config, tokenizer, and safetensors shards.

    Weights of two dimensions are stored as float16 where it holds them, everything else as float32.

    Raises:
        ModelError: damaged, or of an unsupported architecture, type or tokenizer.
    """
    file = read_gguf(path)
    family = family_of(file)
    names = tensor_names(file, family)
    _check_types(file, names)
    try:
        texts = {**_configs(file, family), **tokenizer_files(file)}
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as cause:
        raise ModelError(
            f"{path}: the metadata have values of the wrong kind: {cause}", hint="fetch the GGUF file again"
        ) from cause
    _write_weights(file, family, names, folder, shard_bytes)
    for name, content in texts.items():
        if name == "tokenizer.json":  # large, and its order is its own
            write_atomic(folder / name, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
        else:
            write_json(folder / name, content)


def _check_types(file: GgufFile, names: dict[str, str]) -> None:
    """Refuse before anything is written."""
    for name in names:
        tensor = file.tensors[name]
        try:
            row_bytes(tensor.type_name, tensor.shape[-1])
        except ModelError as cause:
            raise ModelError(f"{file.path}: tensor {name!r}: {cause.message}", hint=cause.hint) from None


def _configs(file: GgufFile, family: Family) -> dict[str, Any]:
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **common_config(file),
        **family.config(file),
    }
    generation = generation_config(file)
    return {"config.json": config, **({"generation_config.json": generation} if generation else {})}


def _write_weights(file: GgufFile, family: Family, names: dict[str, str], folder: Path, limit: int) -> None:
    writer = ShardWriter(folder, names.values(), limit=limit)
    try:
        for name, target in names.items():
            tensor = file.tensors[name]
            heads = _permuted_heads(file, family, tensor)
            shift = family.norm_offset if name.endswith("norm.weight") else 0.0
            writer.add(target, tensor.shape, partial(_pieces, file, tensor, heads=heads, shift=shift))
        writer.finish()
    finally:
        writer.close()


def _permuted_heads(file: GgufFile, family: Family, tensor: GgufTensor) -> int:
    """Number of heads whose rows must be put back in order, or 0."""
    if not permuted(tensor.name, family):
        return 0
    heads = number(file, "attention.head_count")
    if tensor.name.endswith("attn_k.weight"):
        heads = number(file, "attention.head_count_kv", heads)
    if len(tensor.shape) != 2 or tensor.shape[0] != heads * head_dim(file) or head_dim(file) % 2:
        raise ModelError(
            f"{file.path}: tensor {tensor.name!r} has shape {tensor.shape}, which is not {heads} heads of "
            f"{head_dim(file)} rows",
            hint="fetch the GGUF file again",
        )
    return heads


def _pieces(file: GgufFile, tensor: GgufTensor, *, heads: int, shift: float) -> Iterator[Floats]:
    """A tensor in float32, some rows at a time (whole heads where these are re-ordered)."""
    columns = tensor.shape[-1]
    rows = tensor.nbytes // row_bytes(tensor.type_name, columns)
    unit = rows // heads if heads else 1
    step = max(_PIECE // (columns * unit), 1) * unit
    size = row_bytes(tensor.type_name, columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        piece = decode(file.read(tensor, start * size, stop * size), tensor.type_name, (stop - start, columns))
        if heads:
            piece = piece.reshape(-1, unit // 2, 2, columns).swapaxes(1, 2).reshape(piece.shape)
        yield piece - np.float32(shift) if shift else piece
