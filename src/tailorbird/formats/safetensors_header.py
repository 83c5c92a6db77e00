"""A bounded reader of safetensors files: everything the header claims is checked against the file before use.

The library of the same name maps whole files into memory; here tensors are read one at a time into private
buffers, so the resident memory of a process that streams a large model stays that of its largest tensor.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tailorbird.errors import TailorbirdError

MAX_HEADER_BYTES = 100 * 2**20
_MAX_DIMENSIONS = 16
_REMEDY = "fetch or make the file again"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: bytes `start` to `stop` of `file`, row-major, little-endian."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return self.stop - self.start

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path, *, error: type[TailorbirdError]) -> dict[str, TensorInfo]:
    """Read and check the header of one safetensors file; no tensor data are read.

    Args:
        path: the file.
        error: the class to raise, `ModelError` for a model and `ArtifactError` for an artifact.

    Returns:
        Tensors by name, in the order of their bytes.

    Raises:
        error: missing or truncated file, header too large or not JSON, a name twice, an unknown type, a shape
            that doesn't match its bytes, or bytes that overlap, leave gaps or run past the end.
    """
    raw, data_start, size = _header_bytes(path, error)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: the header is not valid JSON: {cause}", hint=_REMEDY) from cause
    if not isinstance(header, dict):
        raise error(f"{path}: the header is not a JSON object", hint=_REMEDY)
    header.pop("__metadata__", None)
    infos = [_entry(path, name, entry, data_start, error) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.start, info.stop))
    _check_layout(path, infos, data_start, size, error)
    return {info.name: info for info in infos}


def header_bytes(path: Path, *, error: type[TailorbirdError]) -> bytes:
    """The raw JSON header of a safetensors file, as stored (for digests).

    Raises:
        error: the file is missing, truncated, or its header too large.
    """
    return _header_bytes(path, error)[0]


def read_span(info: TensorInfo, start: int, stop: int, *, error: type[TailorbirdError]) -> torch.Tensor:
    """Read the bytes `start` to `stop` of one tensor (relative to the tensor) into a private uint8 buffer.

    Raises:
        error: the file is missing or ends too early.
    """
    buffer = torch.empty(stop - start, dtype=torch.uint8)
    view = buffer.numpy().data
    try:
        with info.file.open("rb", buffering=0) as handle:
            handle.seek(info.start + start)
            done = 0
            while done < len(view):
                count = handle.readinto(view[done:])
                if not count:
                    raise error(f"{info.file} ends inside the tensor {info.name!r}", hint=_REMEDY)
                done += count
    except OSError as cause:
        raise error(f"{info.file}: tensor {info.name!r} can't be read: {cause}", hint=_REMEDY) from cause
    return buffer


def read_rows(info: TensorInfo, start: int, stop: int, *, error: type[TailorbirdError]) -> torch.Tensor:
    """Read rows `start` to `stop` of one tensor: shape (stop - start, ...), its stored type, private memory.

    Raises:
        error: the file is missing or ends too early.
        ValueError: a tensor without rows, or rows outside it.
    """
    if not info.shape or not 0 <= start <= stop <= info.shape[0]:
        raise ValueError(f"rows {start} to {stop} of tensor {info.name!r} with shape {info.shape}")
    shape = (stop - start, *info.shape[1:])
    row = math.prod(info.shape[1:]) * info.dtype.itemsize
    return _typed(read_span(info, start * row, stop * row, error=error), info.dtype, shape)


def read_tensor(info: TensorInfo, *, error: type[TailorbirdError]) -> torch.Tensor:
    """Read one whole tensor in its stored type into private memory.

    Raises:
        error: the file is missing or ends too early.
    """
    return _typed(read_span(info, 0, info.nbytes, error=error), info.dtype, info.shape)


def _typed(raw: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if dtype == torch.bool:
        return (raw != 0).reshape(shape)  # a byte other than 0 or 1 must not become a bool as it is
    return raw.view(dtype).reshape(shape)


def _header_bytes(path: Path, error: type[TailorbirdError]) -> tuple[bytes, int, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length < 2 or length > min(MAX_HEADER_BYTES, size - 8):
                raise error(f"{path} is truncated or not safetensors: {size} bytes, header of {length}", hint=_REMEDY)
            raw = handle.read(length)
    except FileNotFoundError:
        raise error(f"{path} is missing", hint="check the path, or fetch the file again") from None
    except OSError as cause:
        raise error(f"{path} can't be read: {cause}", hint=_REMEDY) from cause
    if len(raw) != length:
        raise error(f"{path} ends inside its header", hint=_REMEDY)
    return raw, 8 + length, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _entry(path: Path, name: str, entry: Any, base: int, error: type[TailorbirdError]) -> TensorInfo:
    def refuse(why: str) -> TailorbirdError:
        return error(f"{path}: tensor {name[:200]!r} {why}", hint=_REMEDY)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("has a malformed header entry")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise refuse(f"has the type {str(kind)[:40]!r}; known are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise refuse("has a malformed shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise refuse("has malformed offsets")
    start, stop = offsets
    expected = math.prod(shape) * DTYPES[kind].itemsize
    if stop - start != expected:
        raise refuse(f"holds {stop - start} bytes where its shape {shape} and type {kind} need {expected}")
    return TensorInfo(name, tuple(shape), DTYPES[kind], path, base + start, base + stop)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_layout(path: Path, infos: list[TensorInfo], start: int, size: int, error: type[TailorbirdError]) -> None:
    at = start
    for info in infos:
        if info.stop > size:
            raise error(
                f"{path} is truncated: tensor {info.name[:200]!r} ends at {info.stop}, the file at {size}",
                hint=_REMEDY,
            )
        if info.start != at:
            raise error(f"{path}: tensor {info.name[:200]!r} overlaps another or leaves a gap", hint=_REMEDY)
        at = info.stop
    if at != size:
        raise error(f"{path}: {size - at} bytes at the end belong to no tensor", hint=_REMEDY)
