"""Writing a model as safetensors shards, a few rows at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tailorbird.files import write_json

Floats = npt.NDArray[np.float32]
_HALF_MAX = 65504.0
_ENTRY_BYTES = 160
_NAMES: dict[type[np.floating[Any]], str] = {np.float16: "F16", np.float32: "F32"}


class ShardWriter:
    """Writes tensors one after the other; no tensor is ever whole in memory.

    The header of a safetensors file stands before the data but depends on them (a weight is stored as float16
    only when all its values fit), so room for it is kept free and what is left over is filled with spaces, as
    the format allows.

    Args:
        folder: where to write; it must exist.
        names: of all tensors to come, which bounds the size of a header.
        limit: bytes of data in a shard; a single larger tensor gets a shard of its own.
    """

    def __init__(self, folder: Path, names: Iterable[str], *, limit: int) -> None:
        self._folder = folder
        self._room = -(-(sum(len(name.encode()) + _ENTRY_BYTES for name in names) + 64) // 64) * 64
        self._limit = limit
        self._headers: list[dict[str, dict[str, Any]]] = []
        self._handle: IO[bytes] | None = None
        self._at = 0

    def add(self, name: str, shape: tuple[int, ...], rows: Callable[[], Iterator[Floats]]) -> None:
        """Write one tensor.

        Args:
            name: of the tensor.
            shape: of the tensor.
            rows: gives the tensor in float32, in consecutive pieces; called again if float16 can't hold it.

        One dimension, an odd number of elements (which would misalign what follows) or a value beyond float16
        (NaN and infinity too, so that they are not hidden) mean float32, everything else float16.
        """
        count = math.prod(shape)
        types: list[type[np.floating[Any]]] = (
            [np.float16, np.float32] if len(shape) > 1 and count % 2 == 0 else [np.float32]
        )
        for dtype in types:
            size = count * np.dtype(dtype).itemsize
            if self._handle is None or (self._at and self._at + size > self._limit):
                self._next_shard()
            if self._write(rows(), dtype):
                break
        self._headers[-1][name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [self._at, self._at + size],
        }
        self._at += size

    def finish(self) -> None:
        """Write the last header, give the shards their names, and write the index where there are several."""
        self._close()
        total = len(self._headers)
        if total == 1:
            self._shard(0).replace(self._folder / "model.safetensors")
            return
        mapping = {}
        for number, header in enumerate(self._headers):
            file = f"model-{number + 1:05d}-of-{total:05d}.safetensors"
            self._shard(number).replace(self._folder / file)
            mapping.update(dict.fromkeys(header, file))
        size = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in self._entries())
        index: Mapping[str, Any] = {"metadata": {"total_size": size}, "weight_map": mapping}
        write_json(self._folder / "model.safetensors.index.json", index)

    def close(self) -> None:
        """Let go of the open file, after an error."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _write(self, pieces: Iterator[Floats], dtype: type[np.floating[Any]]) -> bool:
        handle = self._handle
        assert handle is not None
        handle.seek(8 + self._room + self._at)
        for piece in pieces:
            if dtype == np.float16 and not np.abs(piece).max(initial=0.0) <= _HALF_MAX:
                handle.truncate(8 + self._room + self._at)
                return False
            handle.write(np.ascontiguousarray(piece, dtype=dtype).data)
        return True

    def _next_shard(self) -> None:
        self._close()
        self._handle = self._shard(len(self._headers)).open("wb")
        self._headers.append({})
        self._at = 0

    def _close(self) -> None:
        if self._handle is None:
            return
        text = json.dumps(self._headers[-1], separators=(",", ":")).encode()
        assert len(text) <= self._room
        self._handle.seek(0)
        self._handle.write(self._room.to_bytes(8, "little") + text.ljust(self._room))
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self.close()

    def _shard(self, number: int) -> Path:
        return self._folder / f"shard-{number}.partial"

    def _entries(self) -> list[dict[str, Any]]:
        return [entry for header in self._headers for entry in header.values()]
