"""A trained model as a folder: safetensors, config.json, tokenizer files; read one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tailorbird.errors import ModelError
from tailorbird.formats import safetensors_header as safetensors
from tailorbird.formats.safetensors_header import TensorInfo

__all__ = ["Checkpoint", "TensorInfo"]

_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, whose weights are never all in memory.

    Attributes:
        folder: where the files lie.
        source: the model as the user named it.
        config: the content of config.json.
        tensors: every stored tensor by name.
    """

    folder: Path
    source: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in its stored type, in memory of its own.

        Raises:
            ModelError: no such tensor, or its file became shorter.
        """
        return safetensors.read_tensor(self._info(name), error=ModelError)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor of two or more dimensions, in its stored type.

        Raises:
            ModelError: no such tensor, or its file became shorter.
            ValueError: rows outside the tensor.
        """
        return safetensors.read_rows(self._info(name), start, stop, error=ModelError)

    def digest(self) -> str:
        """A cheap identity of the model, in hex, which doesn't depend on where the folder lies.

        SHA-256 over config.json, every file's header and size, and the first 4 KiB of every tensor: headers
        alone would not tell two fine-tunings of one model apart.
        """
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for file in sorted({info.file for info in self.tensors.values()}):
            digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
            digest.update(safetensors.header_bytes(file, error=ModelError))
        for info in self.tensors.values():
            sample = safetensors.read_span(info, 0, min(info.nbytes, _SAMPLE_BYTES), error=ModelError)
            digest.update(sample.numpy().data)
        return digest.hexdigest()

    @property
    def tokenizer_file(self) -> Path | None:
        """The folder's tokenizer.json, where it has one."""
        path = self.folder / "tokenizer.json"
        return path if path.is_file() else None

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelError(
                f"{self.source} has no tensor {name!r}",
                hint="the files are incomplete, or config.json belongs to another model",
            ) from None
