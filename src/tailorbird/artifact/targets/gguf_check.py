"""Comparing a GGUF file with its artifact: read and unpacked by the gguf library, which llama.cpp's authors publish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.gguf_blocks import BlockArtifact
from tailorbird.artifact.targets.gguf_tensors import half_order, head_rows, names_of, shift_of
from tailorbird.artifact.targets.gguf_types import allowed_error
from tailorbird.artifact.targets.target import Check
from tailorbird.checkpoint.gguf_blocks import decode, row_bytes
from tailorbird.checkpoint.gguf_families import Family
from tailorbird.checkpoint.gguf_reader import GgufFile, GgufTensor, read_gguf
from tailorbird.errors import ArtifactError, require
from tailorbird.formats import PlaneSpec, Spec
from tailorbird.formats.ggml import TYPES
from tailorbird.formats.ggml.exact import exact_type

_PIECE = 2**22
# Types were chosen on a sample of rows: the whole may lose more.
_SLACK = 2.0


@dataclass
class _Found:
    """What has been seen so far."""

    largest: float = 0.0
    exact: bool = True
    types: Counter[str] = field(default_factory=Counter)
    lost: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)
    parts_lost: float = 0.0
    parts_whole: float = 0.0


def compare(artifact: Artifact, path: Path, family: Family, loss: Mapping[str, float]) -> Check:
    """Compare every tensor.

    Args:
        artifact: what was written.
        path: the file.
        family: of the model.
        loss: share of 4**-bits a part may lose, see `allowed_error`, by its name; parts whose type the user named have
            none.

    Raises:
        ArtifactError: a tensor is missing, or loses more than allowed.
    """
    file, found = read_gguf(path), _Found()
    fitted = artifact.blocks if isinstance(artifact, BlockArtifact) else {}
    for ours, theirs in names_of(artifact, family).items():
        if theirs not in file.tensors or file.tensors[theirs].shape != tuple(artifact.tensors[ours].shape):
            raise ArtifactError(f"{path}: the tensor {theirs!r} is missing or misshapen", hint="please report this")
        lost, whole = _tensor(artifact, file, ours, theirs, family, found)
        part = ours.removesuffix(".weight")
        spec = None if part in fitted else artifact.plan.specs.get(part)
        if part in artifact.plan.specs:
            found.parts_lost, found.parts_whole = found.parts_lost + lost, found.parts_whole + whole
        most = _allowed(spec, file.tensors[theirs].type_name, loss.get(part))
        if not lost <= most * whole:
            raise ArtifactError(
                f"{path}: {theirs!r} loses {lost / max(whole, 1e-30):.2g} of its square, allowed are {most:.2g}",
                hint="please report this",
            )
    return _result(found, f"gguf {version('gguf')}", len(artifact.tensors), len(fitted))


def _allowed(spec: Spec | None, type_name: str, loss: float | None) -> float:
    """Relative squared error a tensor may have."""
    exact = None if spec is None else exact_type(spec)
    if spec is None or (exact and exact.name == type_name):
        # Half of a very small scale is not always a half: single bits under such a scale may lose their last place.
        return 2.0**-22 if isinstance(spec, PlaneSpec) and 1 in spec.bits else 0.0
    return math.inf if loss is None else _SLACK * allowed_error(spec, loss)


def _tensor(
    artifact: Artifact, file: GgufFile, ours: str, theirs: str, family: Family, found: _Found
) -> tuple[float, float]:
    """Squared error and squared weights of a tensor."""
    tensor = file.tensors[theirs]
    cols = tensor.shape[-1]
    rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    unit = head_rows(artifact, theirs, tensor.shape[0], family)
    step = max(1, _PIECE // (cols * unit)) * unit
    lost = whole = largest = reach = 0.0
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        got = half_order(_unpacked(file, tensor, start, stop), unit)
        want = artifact.read_rows(ours, start, stop) if len(tensor.shape) > 1 else artifact.read(ours)[None]
        want = want.float() + shift_of(theirs, family)
        gap = got - want
        lost, whole = lost + float(gap.double().square().sum()), whole + float(want.double().square().sum())
        largest, reach = max(largest, float(gap.abs().amax())), max(reach, float(want.abs().amax()))
    found.exact &= lost == 0
    found.largest = max(found.largest, largest / reach if reach else largest)
    found.types[tensor.type_name] += 1
    found.lost[tensor.type_name] = found.lost.get(tensor.type_name, 0.0) + lost
    found.whole[tensor.type_name] = found.whole.get(tensor.type_name, 0.0) + whole
    return lost, whole


def _unpacked(file: GgufFile, tensor: GgufTensor, start: int, stop: int) -> Tensor:
    """Rows of a tensor by the library's own code; by ours for the types it can't unpack."""
    library = require("gguf", extra="gguf")
    size = row_bytes(tensor.type_name, tensor.shape[-1])
    raw = file.read(tensor, start * size, stop * size)
    try:
        kind = library.GGMLQuantizationType[tensor.type_name]
        shaped = raw.view(np.float32 if tensor.type_name == "F32" else raw.dtype)
        values = library.quants.dequantize(shaped.reshape(stop - start, -1), kind)
    except NotImplementedError:
        values = decode(raw, tensor.type_name, (stop - start, tensor.shape[-1]))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _result(found: _Found, library: str, tensors: int, fitted: int) -> Check:
    notes = [
        f"{name}: {count} tensors, {_lost(found.lost[name], found.whole[name])}"
        for name, count in found.types.most_common()
        if name in TYPES and not (fitted and found.lost[name] == 0)
    ]
    exact = found.exact and not fitted
    why = "" if exact else "parts were encoded anew into block types"
    if fitted:
        why = f"{fitted} parts are the original's, fitted with error feedback, and compared with what was fitted"
    lost = found.parts_lost / max(found.parts_whole, 1e-30)
    return Check(library, tensors, exact, found.largest, found.largest, why, tuple(notes), lost=lost)


def _lost(lost: float, whole: float) -> str:
    return f"relative squared error {lost / max(whole, 1e-30):.2g}" if lost else "bit for bit"
