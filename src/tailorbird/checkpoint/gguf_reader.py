"""Reading a GGUF file's header with the `gguf` library, held to the file's own size.

The library trusts the lengths it reads: an array said to hold 2**60 numbers keeps it busy for ever beyond the
end of the file. The subclass here checks every access, and takes arrays in one piece, which also makes a
vocabulary of 262,144 words several times faster to read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import ModelError, require

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GgufTensor:
    """One stored tensor: rows-first shape as in torch, type name, and the bytes it takes in the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; the tensors' data stay on disk."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value, or the default; without a default the key must be there.

        Raises:
            ModelError: the key is missing and there is no default.
        """
        if key in self.metadata:
            return self.metadata[key]
        if default is None:
            raise ModelError(f"{self.path} has no metadata {key!r}", hint="convert or fetch the GGUF file again")
        return default

    def read(self, tensor: GgufTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes `start` to `stop` of a tensor, by plain reads, so that no mapped pages stay resident.

        Raises:
            ModelError: the file ends too early.
        """
        data = np.fromfile(self.path, np.uint8, stop - start, offset=tensor.start + start)
        if data.size != stop - start:
            raise ModelError(f"{self.path} ends inside the tensor {tensor.name!r}", hint="fetch the file again")
        return data


def read_gguf(path: Path) -> GgufFile:
    """Read header, metadata and tensor table.

    Raises:
        ModelError: not a GGUF file, damaged, truncated, big-endian, or one part of a split model.
        MissingExtra: the gguf library is not installed.
    """
    reader_class = _reader_class(require("gguf", extra="gguf"))
    try:
        reader = reader_class(path)
        if reader.byte_order == "S":
            raise ValueError("the file has the other byte order; use gguf-convert-endian")
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _tensor(tensor) for tensor in reader.tensors}
    except Exception as cause:  # whatever a damaged file makes the reader stumble over
        raise ModelError(
            f"{path} can't be read as GGUF: {type(cause).__name__}: {cause}",
            hint="the file is damaged, incomplete, or newer than the gguf library; fetch it again",
        ) from cause
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one of {metadata['split.count']} parts",
            hint="join them first: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    return GgufFile(path, metadata, tensors)


def _tensor(tensor: Any) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    if math.prod(shape) != tensor.n_elements or not tensor.n_elements:
        raise ValueError(f"tensor {tensor.name!r} has the impossible shape {shape}")
    return GgufTensor(tensor.name, shape, tensor.tensor_type.name, int(tensor.data_offset), int(tensor.n_bytes))


def _reader_class(gguf: ModuleType) -> Any:
    base: Any = gguf.GGUFReader
    kinds: Any = gguf.GGUFValueType

    class BoundedReader(base):  # type: ignore[misc]  # the library is optional, so its classes are Any here
        def _get(self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Any = None) -> Array:
            size = int(count) * np.dtype(dtype).itemsize
            if int(offset) + size > len(self.data):
                raise ValueError(f"{size} bytes at {int(offset)} run past the end of the file")
            found: Array = super()._get(int(offset), dtype, int(count), override_order)
            return found

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Array], list[int], list[Any]]:
            if raw_type != kinds.ARRAY:
                parts: tuple[int, list[Array], list[int], list[Any]] = super()._get_field_parts(orig_offs, raw_type)
                return parts
            kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            item, at = kinds(kind[0]), orig_offs + 12
            types = [kinds.ARRAY, item]
            if item == kinds.ARRAY:
                raise ValueError("arrays of arrays are not supported")
            if item == kinds.STRING:
                texts, size = _strings(np.asarray(self.data), at, int(length[0]))
                return 12 + size, [kind, length, *texts], list(range(2, 2 + len(texts))), types
            values = self._get(at, self.gguf_scalar_to_np[item], int(length[0]))
            return 12 + values.nbytes, [kind, length, values], [2], types

    return BoundedReader


def _strings(data: Array, start: int, count: int) -> tuple[list[Array], int]:
    """Views of `count` strings from byte `start`, each after its 8-byte length, and the bytes they take."""
    if count * 8 > len(data) - start:
        raise ValueError(f"an array of {count} strings runs past the end of the file")
    at, parts = start, []
    for _ in range(count):
        length = int.from_bytes(data[at : at + 8].tobytes(), "little")
        at += 8 + length
        if at > len(data):
            raise ValueError("a string runs past the end of the file")
        parts.append(data[at - length : at])
    return parts, at - start
