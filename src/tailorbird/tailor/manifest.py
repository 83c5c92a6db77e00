"""Which tensors of a trunk a patch may touch, how, and how far: the promise a device holds every patch to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.files import json_bytes

Action = Literal["replace", "edit", "mask", "skip"]
Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, Floats]
VERSION = 1
MAX_TENSORS, MAX_NUMBERS, MAX_BYTES, MAX_PROTOTYPES = 256, 2**28, 2**30, 2**16 - 1


@dataclass(frozen=True)
class Adaptive:
    """A tensor that a patch may touch.

    Attributes:
        name: in the trunk.
        shape: likewise; one or two dimensions.
        actions: ``replace`` it, ``edit`` it by adding, ``mask`` numbers of it, ``skip`` it (all zero).
        max_abs: what no number of it may exceed after a patch.
    """

    name: str
    shape: tuple[int, ...]
    actions: tuple[Action, ...]
    max_abs: float

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        return (1, self.shape[0]) if len(self.shape) == 1 else (self.shape[0], self.shape[1])


@dataclass(frozen=True)
class Manifest:
    """What may be adapted in one trunk.

    Attributes:
        trunk: digest of the trunk's tensors.
        tensors: in the order of a message.
        max_bytes: of a message, header included, and of the arrays it unpacks to.
        max_rank: of a low-rank edit.
        clip: what an edit of a prototype may add at most.
        prototypes: how many the trunk holds, as tensors ``prototype.1.NAME`` and so on; number 0 is the trunk itself.
        model: `model_digest` of what computes with the tensors; empty in manifests of before it was kept.
    """

    trunk: str
    tensors: tuple[Adaptive, ...]
    max_bytes: int = 16_384
    max_rank: int = 8
    clip: float = 1.0
    prototypes: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        """Refuse what no trunk can have.

        Raises:
            ArtifactError: no tensors or too many, a name twice, a shape, bound or action that can't be.
        """
        sizes = (self.max_bytes, self.max_rank, self.prototypes)
        limits = (MAX_BYTES, 255, MAX_PROTOTYPES)
        good = all(0 <= size <= limit for size, limit in zip(sizes, limits, strict=True))
        good &= math.isfinite(self.clip) and self.clip >= 0 and 0 < len(self.tensors) <= MAX_TENSORS
        good &= len({entry.name for entry in self.tensors}) == len(self.tensors)
        for entry in self.tensors:
            good &= len(entry.shape) in (1, 2) and min(entry.shape) > 0 and math.prod(entry.shape) <= MAX_NUMBERS
            good &= math.isfinite(entry.max_abs) and entry.max_abs > 0 and set(entry.actions) <= set(get_args(Action))
        if not good:
            raise ArtifactError("a manifest that no trunk can have", hint="make it anew: tailorbird tailor train")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, trunk included."""
        return hashlib.sha256(json_bytes(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        tensors = [
            asdict(entry) | {"shape": list(entry.shape), "actions": list(entry.actions)} for entry in self.tensors
        ]
        data = {"version": VERSION} | asdict(self) | {"tensors": tensors}
        return data if self.model else {key: value for key, value in data.items() if key != "model"}

    def check(self, trunk: Tensors) -> None:
        """Hold a trunk to the manifest: every tensor it may touch, and every prototype of it, in its shape. Their
        numbers are the digest's.

        Raises:
            ArtifactError: one is missing or of another shape.
        """
        for entry in self.tensors:
            for number in range(self.prototypes + 1):
                name = f"prototype.{number}.{entry.name}" if number else entry.name
                if name not in trunk or trunk[name].shape != entry.shape:
                    where = f"in prototype {number}" if number else "in the trunk"
                    raise ArtifactError(f"{entry.name!r} of {entry.shape} is not {where}", hint="fetch both again")


def manifest_of_json(data: Any) -> Manifest:
    """`Manifest.to_json` read back.

    Raises:
        ArtifactError: not a manifest.
    """
    try:
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")
        tensors = tuple(
            Adaptive(str(t["name"]), tuple(map(int, t["shape"])), tuple(t["actions"]), float(t["max_abs"]))
            for t in data["tensors"]
        )
        sizes = (int(data["max_bytes"]), int(data["max_rank"]), float(data["clip"]), int(data["prototypes"]))
        return Manifest(str(data["trunk"]), tensors, *sizes, str(data.get("model", "")))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as cause:
        raise ArtifactError(f"not a manifest: {type(cause).__name__}: {cause}", hint="fetch it again") from cause


def manifest_of(
    trunk: Tensors, adaptive: Mapping[str, Collection[Action]], *, max_abs: Mapping[str, float], **bounds: Any
) -> Manifest:
    """The manifest of a trunk.

    Args:
        trunk: float32 tensors, prototypes included.
        adaptive: what may be done with which tensors.
        max_abs: a bound for each of them.
        bounds: ``max_bytes``, ``max_rank``, ``clip``, ``prototypes``, ``model`` of `Manifest`.

    Raises:
        UsageError: a tensor or a prototype the trunk lacks, or whose own numbers pass its bound.
    """
    entries = []
    for name, actions in adaptive.items():
        if name not in trunk or not float(np.abs(trunk[name]).max(initial=0)) <= max_abs[name]:
            raise UsageError(
                f"{name!r} is not in the trunk, or passes its own bound", hint="names and bounds of the trunk"
            )
        entries.append(Adaptive(name, trunk[name].shape, tuple(sorted(actions)), float(max_abs[name])))
    made = Manifest(digest_of(trunk), tuple(entries), **bounds)
    try:
        made.check(trunk)
    except ArtifactError as cause:
        raise UsageError(cause.message, hint="every adaptive tensor in every prototype, same shape") from cause
    return made


def digest_of(tensors: Tensors) -> str:
    """SHA-256 of tensors: names, shapes and numbers, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], "<f4")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def model_digest(name: str, shape: Mapping[str, Any]) -> str:
    """SHA-256 of a recommender's name and sizes: tensors of the same shapes give other scores under other heads."""
    return hashlib.sha256(json_bytes({"name": name, "shape": dict(shape)})).hexdigest()
