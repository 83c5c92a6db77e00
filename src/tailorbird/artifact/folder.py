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
from tailorbird.files import json_bytes, write_atomic
from tailorbird.formats.safetensors_write import file_bytes, stream

# Told what is being worked on, how many are done, and how many there are.
Told = Callable[[str, int, int], None]
SHARD_BYTES = 2 * 10**9
# Numbers unpacked at once.
CHUNK = 2**22
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INDEX = "model.safetensors.index.json"
_METADATA = {"format": "pt"}
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


@dataclass(frozen=True)
class Folder:
    """What a folder is to hold: its size is known before there is any data.

    Attributes:
        tensors: in one safetensors file, or in shards of bounded size with their index.
        files: small ones, whole.
    """

    tensors: Mapping[str, Lazy]
    files: Mapping[str, bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        shards = [file_bytes(metas, _METADATA) for metas in self._metas().values()]
        return sum(shards) + sum(len(data) for data in self._small().values())

    def write(self, out: Path, told: Told) -> None:
        """Write all files."""
        done = 0

        def pieces(name: str) -> Iterator[Tensor]:
            nonlocal done
            told("writing", done, len(self.tensors))
            done += 1
            yield from self.tensors[name].pieces()

        for file, metas in self._metas().items():
            stream(out / file, metas, pieces, _METADATA)
        for file, data in self._small().items():
            write_atomic(out / file, data)

    def _metas(self) -> dict[str, dict[str, Tensor]]:
        """Shapes and types of tensors by file."""
        shards = list(_shards(self.tensors))
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        if len(files) == 1:
            files = ["model.safetensors"]
        return {
            file: {name: self.tensors[name].meta for name in names} for file, names in zip(files, shards, strict=True)
        }

    def _small(self) -> dict[str, bytes]:
        shards = self._metas()
        if len(shards) == 1:
            return dict(self.files)
        size = sum(_nbytes(lazy.meta) for lazy in self.tensors.values())
        places = {name: file for file, metas in shards.items() for name in metas}
        return {INDEX: json_bytes({"metadata": {"total_size": size}, "weight_map": places})} | dict(self.files)


def small_files(artifact: Artifact, dtype: torch.dtype, **more: Any) -> dict[str, bytes]:
    """config.json, with what is `more`, and the tokenizer's files, unpacked, by name."""
    config = {key: value for key, value in artifact.config.items() if key not in ("dtype", "torch_dtype", *QUANTIZED)}
    files = {"config.json": json_bytes(config | {"dtype": str(dtype).removeprefix("torch.")} | more)}
    if TOKENIZER in artifact.manifest.files:
        files["tokenizer.json"] = artifact.tokenizer_bytes()
    return files | {name: (artifact.folder / name).read_bytes() for name in _SMALL if name in artifact.manifest.files}


def write_small_files(artifact: Artifact, out: Path, dtype: torch.dtype) -> None:
    """Write `small_files`."""
    for name, data in small_files(artifact, dtype).items():
        write_atomic(out / name, data)


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
