"""Writing a model's folder in the Hugging Face layout from an artifact, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.artifact.layout import QUANTIZED
from tailorbird.artifact.reader import TOKENIZER, Artifact
from tailorbird.errors import UsageError
from tailorbird.files import write_atomic, write_json
from tailorbird.formats.safetensors_write import stream

# Told what is being worked on, how many are done, and how many there are.
Told = Callable[[str, int, int], None]
SHARD_BYTES = 2 * 10**9
# Numbers unpacked at once.
CHUNK = 2**22
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INDEX = "model.safetensors.index.json"
_SMALL = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class Lazy:
    """A tensor that is made when it is written.

    Attributes:
        meta: its shape and type.
        pieces: makes consecutive rows of it.
    """

    meta: Tensor
    pieces: Callable[[], Iterable[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> Lazy:
        """A tensor that is there."""
        return cls(tensor.to("meta"), lambda: [tensor])


def dtype_of(name: str) -> torch.dtype:
    """The type of unpacked weights by the name users give.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in DTYPES:
        raise UsageError(f"there is no dtype {name!r}", hint=f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dequantized(artifact: Artifact, part: str, dtype: torch.dtype) -> Lazy:
    """A packed weight as plain numbers (rows, cols)."""
    rows, cols = next(p.shape for p in artifact.plan.parts if p.name == part)
    step = max(1, CHUNK // cols)
    name = f"{part}.weight"

    def pieces() -> Iterator[Tensor]:
        for low in range(0, rows, step):
            yield fitting(name, artifact.read_rows(name, low, min(low + step, rows)), dtype)

    return Lazy(torch.empty(rows, cols, dtype=dtype, device="meta"), pieces)


def kept(artifact: Artifact, dtype: torch.dtype) -> dict[str, Lazy]:
    """The tensors an artifact keeps as they are; floating-point ones in `dtype`."""
    found = {}
    for name in artifact.tensors:
        if name in artifact.stored:
            info = artifact.stored[name]
            kind = dtype if info.dtype.is_floating_point else info.dtype
            found[name] = Lazy(
                torch.empty(info.shape, dtype=kind, device="meta"),
                lambda name=name, kind=kind: [fitting(name, artifact.read(name), kind)],  # type: ignore[misc]
            )
    return found


def fitting(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another type.

    Raises:
        UsageError: the type can't hold a value.
    """
    made = tensor.to(dtype)
    if made.is_floating_point() and not torch.isfinite(made).all():
        raise UsageError(f"{name} has values that {dtype} can't hold", hint="take --set dtype=bf16 or dtype=fp32")
    return made


def write_tensors(out: Path, tensors: Mapping[str, Lazy], told: Told) -> None:
    """Write tensors as one safetensors file, or as shards of bounded size with their index."""
    shards = list(_shards(tensors))
    done = 0
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"

        def pieces(name: str) -> Iterator[Tensor]:
            nonlocal done
            told("writing", done, len(tensors))
            done += 1
            yield from tensors[name].pieces()

        stream(out / file, {name: tensors[name].meta for name in names}, pieces, {"format": "pt"})
    if len(shards) > 1:
        files = {
            name: f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            for number, names in enumerate(shards, 1)
            for name in names
        }
        size = sum(_nbytes(lazy.meta) for lazy in tensors.values())
        write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": files})


def write_small_files(artifact: Artifact, out: Path, dtype: torch.dtype, **more: Any) -> None:
    """Write config.json, with what is `more`, and the tokenizer's files, unpacked."""
    config = {key: value for key, value in artifact.config.items() if key not in ("dtype", "torch_dtype", *QUANTIZED)}
    write_json(out / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")} | more)
    if TOKENIZER in artifact.manifest.files:
        write_atomic(out / "tokenizer.json", artifact.tokenizer_bytes())
    for name in _SMALL:
        if name in artifact.manifest.files:
            write_atomic(out / name, (artifact.folder / name).read_bytes())


def _shards(tensors: Mapping[str, Lazy]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, lazy in tensors.items():
        if names and size + _nbytes(lazy.meta) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += _nbytes(lazy.meta)
    yield names


def _nbytes(meta: Tensor) -> int:
    return meta.numel() * meta.element_size()
