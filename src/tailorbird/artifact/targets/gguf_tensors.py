"""The tensors of a GGUF file, made a few rows at a time as llama.cpp's converters lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.gguf_metadata import rope_tables
from tailorbird.artifact.targets.gguf_types import Choice, blocks
from tailorbird.checkpoint.gguf_families import Family, gguf_name, permuted
from tailorbird.errors import ModelError

# Weights encoded at once; the searches take about a second for ten million of them.
_PIECE = 2**21
_PLAIN = {torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        name: in the file.
        type_name: ``F32``, ``Q4_0``, ...
        shape: rows first.
        nbytes: of all pieces together.
        pieces: makes its bytes, uint8 of any shape.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: Callable[[], Iterator[Tensor]]


def names_of(artifact: Artifact, family: Family) -> dict[str, str]:
    """Names in the model -> names in the file, of all tensors.

    Raises:
        ModelError: a tensor that the family has no place for in GGUF.
    """
    names = {}
    for name in artifact.tensors:
        found = gguf_name(name, family)
        if found is None:
            raise ModelError(
                f"GGUF has no place for the tensor {name!r} of a {family.model_type}",
                hint="this variant of the family can't be exported to gguf",
            )
        names[name] = found
    return names


def packed(artifact: Artifact, part: Part, name: str, choice: Choice, family: Family) -> Stored:
    """A part in its block type."""
    rows, cols = part.shape
    unit = head_rows(artifact, name, rows, family)
    step = max(1, _PIECE // (cols * unit)) * unit

    def pieces() -> Iterator[Tensor]:
        for start in range(0, rows, step):
            yield rotary_order(blocks(artifact, part, choice, start, min(start + step, rows)), unit)

    nbytes = rows * (cols // choice.kind.weights * choice.kind.nbytes if choice.kind else 2 * cols)
    return Stored(name, choice.name, part.shape, nbytes, pieces)


def kept(artifact: Artifact, ours: str, name: str, family: Family) -> Stored:
    """A tensor the artifact keeps as it is; vectors as F32."""
    info = artifact.stored[ours]
    shape = tuple(info.shape)
    type_name = _PLAIN.get(info.dtype, "F32") if len(shape) > 1 else "F32"

    def pieces() -> Iterator[Tensor]:
        tensor = artifact.read(ours)
        if type_name == "F32":
            tensor = tensor.float() + shift_of(name, family)
        yield rotary_order(tensor, head_rows(artifact, name, shape[0], family)).contiguous().view(torch.uint8)

    numel = int(torch.Size(shape).numel())
    return Stored(name, type_name, shape, numel * (4 if type_name == "F32" else 2), pieces)


def rope_frequencies(artifact: Artifact) -> list[Stored]:
    """The tensors that carry the rotary scaling of Llama 3.1 or Phi-3, where the model has it."""
    return [_plain(name, factors) for name, factors in rope_tables(artifact.config).items()]


def _plain(name: str, vector: Tensor) -> Stored:
    data = vector.view(torch.uint8)
    return Stored(name, "F32", tuple(vector.shape), data.numel(), lambda: iter([data]))


def shift_of(name: str, family: Family) -> float:
    """What the file adds to a vector."""
    return family.norm_offset if name.endswith("norm.weight") else 0.0


def head_rows(artifact: Artifact, name: str, rows: int, family: Family) -> int:
    """Rows of a head whose order the file changes; 1 where it keeps it."""
    if not permuted(name, family):
        return 1
    heads = int(artifact.config["num_attention_heads"])
    if name.endswith("attn_k.weight"):
        heads = int(artifact.config.get("num_key_value_heads") or heads)
    if rows % (2 * heads):
        raise ModelError(f"{name}: {rows} rows are not {heads} heads of pairs", hint="check the model's config.json")
    return rows // heads


def rotary_order(rows: Tensor, unit: int) -> Tensor:
    """Rows (n, ...) with the two halves of every `unit` rows interleaved."""
    if unit == 1:
        return rows
    return rows.reshape(-1, 2, unit // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def half_order(rows: Tensor, unit: int) -> Tensor:
    """The inverse of `rotary_order`."""
    if unit == 1:
        return rows
    return rows.reshape(-1, unit // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
