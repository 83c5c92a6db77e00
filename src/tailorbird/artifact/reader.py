"""`Artifact`: a compressed model read from a folder, hostile until checked."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tailorbird.artifact.manifest import NAME, Manifest
from tailorbird.errors import ArtifactError
from tailorbird.files import confined, read_json, sha256
from tailorbird.formats import PackedWeight
from tailorbird.formats.safetensors_header import TensorInfo, read_header, read_rows, read_tensor
from tailorbird.plan import Plan

TOKENIZER = "tokenizer.json.xz"
# Real tokenizers shrink about fourfold; beyond this ratio a compressed file is a bomb.
_MAX_RATIO = 32
# What is written needs 3 MB to unpack.
_UNPACK_BYTES = 2**24
_AGAIN = "the artifact is damaged: fetch or make it again"


@dataclass(frozen=True)
class Shape:
    """The shape of a weight that exists only packed."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Artifact:
    """A compressed model on disk; weights are read when asked for and stay packed until then.

    Attributes:
        folder: where it lies.
        manifest: its files and digests.
        config: the model's configuration; empty for a module that came from memory.
        plan: the format of every part.
        stored: every tensor in its files.
    """

    folder: Path
    manifest: Manifest = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    plan: Plan = field(repr=False)
    stored: Mapping[str, TensorInfo] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, digests: bool = True) -> Artifact:
        """Read an artifact's tables and check them against each other; no weight is read, unless to compare `digests`.

        Raises:
            ArtifactError: anything is missing, of the wrong size or shape, or leads out of the folder; the message
                names it.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        for name, (size, digest) in manifest.files.items():
            _check_file(confined(folder, name), size, digest if digests else None)
        config = read_json(folder / "config.json") if "config.json" in manifest.files else {}
        if not isinstance(config, dict):
            raise ArtifactError(f"{folder / 'config.json'} is not an object", hint=_AGAIN)
        tables = [name for name in manifest.files if name.endswith(".safetensors")]
        total = sum(manifest.files[name][0] for name in tables)
        plan = Plan.from_json(read_json(folder / "plan.json"), error=ArtifactError, stored=total)
        artifact = cls(folder, manifest, config, plan, _stored(folder, tables))
        artifact._check_shapes()
        return artifact

    @property
    def source(self) -> str:
        """The folder, as messages name it."""
        return str(self.folder)

    @property
    def digest(self) -> str:
        """Identity of the artifact: SHA-256 over its files."""
        return self.manifest.digest

    @property
    def nbytes(self) -> int:
        """Bytes of all files the runtime loads, the manifest included."""
        return sum(size for size, _ in self.manifest.files.values()) + (self.folder / NAME).stat().st_size

    @property
    def bits(self) -> float:
        """Stored bits a weight: all safetensors files and the plan, over the weights of all parts."""
        counted = [
            size for name, (size, _) in self.manifest.files.items() if name.endswith((".safetensors", "plan.json"))
        ]
        return 8 * sum(counted) / self.plan.numel

    @property
    def tensors(self) -> Mapping[str, Shape | TensorInfo]:
        """Every tensor of the model by its name in the model, with its shape."""
        packed = {part.tensor: Shape(part.shape) for part in self.plan.parts}
        prefixes = tuple(f"{part.name}." for part in self.plan.parts)
        packs = {part.name: self.plan.specs[part.name].plan(part.shape[0]) for part in self.plan.parts}
        arrays = {f"{name}.{array}" for name, pack in packs.items() for array in pack.arrays}
        kept = {n: i for n, i in self.stored.items() if not n.startswith(prefixes) or n not in arrays}
        return packed | kept

    def planes(self, part: str, start: int = 0, stop: int | None = None) -> PackedWeight:
        """One packed part, or some rows of it.

        Raises:
            ArtifactError: its arrays don't fit the plan.
        """
        spec = self.plan.specs[part]
        rows = next(p.shape[0] for p in self.plan.parts if p.name == part)
        stop = rows if stop is None else min(stop, rows)

        def fetch(array: str, span: tuple[int, int] | None) -> Tensor:
            info = self.stored[f"{part}.{array}"]
            return read_rows(info, *span, error=ArtifactError) if span else read_tensor(info, error=ArtifactError)

        return spec.part(rows, start, stop, fetch)

    def read(self, name: str) -> Tensor:
        """A tensor of the model: packed ones as float32."""
        part = self._part(name)
        return read_tensor(self.stored[name], error=ArtifactError) if part is None else self.planes(part).dequantize()

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of it."""
        part = self._part(name)
        if part is None:
            return read_rows(self.stored[name], start, stop, error=ArtifactError)
        return self.planes(part, start, stop).dequantize()

    def tokenizer_bytes(self) -> bytes:
        """The content of tokenizer.json.

        Raises:
            ArtifactError: there is none, it is damaged, or it unpacks to more than 32 times its size.
        """
        path = self.folder / TOKENIZER
        if TOKENIZER not in self.manifest.files:
            raise ArtifactError(f"{self.folder} has no tokenizer", hint="the model it was made from had none")
        packed = path.read_bytes()
        try:
            unpacker = lzma.LZMADecompressor(memlimit=_UNPACK_BYTES)
            data = unpacker.decompress(packed, max_length=_MAX_RATIO * len(packed))
        except lzma.LZMAError as cause:
            raise ArtifactError(f"{path} can't be unpacked: {cause}", hint=_AGAIN) from cause
        if not unpacker.eof:
            raise ArtifactError(f"{path} is cut short or unpacks to more than {_MAX_RATIO} times its size", hint=_AGAIN)
        return data

    def _part(self, name: str) -> str | None:
        part = name.removesuffix(".weight")
        return part if part != name and part in self.plan.specs else None

    def _check_shapes(self) -> None:
        for part in self.plan.parts:
            for array, want in self.plan.specs[part.name].plan(part.shape[0]).arrays.items():
                info = self.stored.get(f"{part.name}.{array}")
                if info is None or tuple(info.shape) != tuple(want.shape) or info.dtype != want.dtype:
                    found = "missing" if info is None else f"{info.dtype} {tuple(info.shape)}"
                    raise ArtifactError(
                        f"{self.folder}: {part.name}.{array} is {found}, "
                        f"the plan says {want.dtype} {tuple(want.shape)}",
                        hint=_AGAIN,
                    )


def _check_file(path: Path, size: int, digest: str | None) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", hint=_AGAIN)
    if path.stat().st_size != size:
        raise ArtifactError(f"{path} is {path.stat().st_size} bytes, the manifest says {size}", hint=_AGAIN)
    if digest is not None and sha256(path) != digest:
        raise ArtifactError(f"{path} differs from its digest in the manifest", hint=_AGAIN)


def _stored(folder: Path, tables: list[str]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for table in tables:
        header = read_header(folder / table, error=ArtifactError)
        if twice := set(header) & set(found):
            raise ArtifactError(f"{folder / table}: tensor {min(twice)!r} stands in another file too", hint=_AGAIN)
        found |= header
    return found
