"""compressed-tensors: what vLLM, SGLang and transformers read; weights in blocks stay packed, 2 to 8 bits by module.

Layout of a linear layer of weight (rows, cols), as version 0.20 of the library has it: ``weight_packed`` int32 (rows,
ceil(cols * bits / 32)), a bitstream of the codes around 2**(bits - 1); ``weight_scale`` (rows, groups);
``weight_shape`` int64 (2,). The format has zero points too, but transformers can't load packed ones, and vLLM takes
them at 4 and 8 bits only: a code less its zero point is a signed number of one bit more, and is written as that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.folder import (
    CHUNK,
    DTYPES,
    Folder,
    Lazy,
    dequantized,
    dtype_of,
    kept,
    small_files,
)
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.compare import Comparison
from tailorbird.artifact.targets.target import Check, Target, Told
from tailorbird.errors import ArtifactError, ModelError, require
from tailorbird.formats import PlaneSpec, Spec, affine, bit_planes, plane_spec
from tailorbird.formats.integers import Integers, signed, words
from tailorbird.formats.spec import MAX_BITS, Offset

LIBRARY = "compressed-tensors"
FORMAT = "pack-quantized"
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, kw_only=True)
class CompressedTensors(Target):
    """Signed codes with float32 scales for layers inside the blocks; embedding and head as plain numbers.

    Attributes:
        dtype: of everything that is not packed: ``fp32``, which is exact, ``bf16`` or ``fp16``.
        pack_head: pack a head of its own, too; one tied to the embedding stays plain with it.
    """

    name: ClassVar[str] = "compressed-tensors"
    extra: ClassVar[str] = "compressed-tensors"
    summary: ClassVar[str] = "packed 2 to 8 bits by layer for vLLM, SGLang and transformers"

    dtype: str = "fp32"
    pack_head: bool = False

    def __post_init__(self) -> None:
        """Refuse a type that does not exist."""
        dtype_of(self.dtype)

    def carried(self, part: Part, spec: Spec) -> Spec:
        """One width for all groups, with its zero point at most 8 bits, columns in order. Plain numbers carry all."""
        if not self._packs(part):
            return spec
        planes = affine(spec)
        bits = max(planes.bits)
        offset: Offset = "none" if planes.offset == "float" or bits == MAX_BITS else planes.offset
        return replace(planes, bits=(bits,) * len(planes.bits), offset=offset, column_order=False)

    def ties(self, parts: Sequence[Part]) -> list[tuple[str, ...]]:
        """Layers that runtimes fuse: q, k and v; gate and up."""
        names = {part.name for part in parts if self._packs(part)}
        groups = []
        for fused in _FUSED:
            for name in sorted(names):
                owner, _, leaf = name.rpartition(".")
                if leaf == fused[0]:
                    groups.append(tuple(member for one in fused if (member := f"{owner}.{one}") in names))
        return [group for group in groups if len(group) > 1]

    def refuse(self, artifact: Artifact) -> None:
        """A module without a configuration is nothing a runtime could load."""
        require("compressed_tensors", extra=self.extra)
        if not artifact.config:
            raise ModelError(
                f"{artifact.folder} is not a language model: it has no config.json", hint="export it with --to hf"
            )

    def write(self, artifact: Artifact, out: Path, told: Told) -> None:
        """Write shards, the configuration with its groups, and the tokenizer."""
        self._folder(artifact).write(out, told)

    def planned_bytes(self, artifact: Artifact) -> int:
        """Bytes of all files."""
        return self._folder(artifact).nbytes

    def check(self, artifact: Artifact, out: Path) -> Check:
        """Unpack every layer with the library, compare codes and scales, then the weights."""
        parts = {part.name: part for part in artifact.plan.parts if self._packs(part)}
        rounding = 0.0 if self.dtype == "fp32" else 2**-8 if self.dtype == "bf16" else 2**-11
        found = Comparison(artifact, rounding, f"{self.dtype} rounds what is not packed", parts)
        for name, tensors in _layers(out):
            if name in parts:
                _check_layer(artifact, parts[name], tensors, found)
            for leaf, tensor in tensors.items() if name not in parts else [("bias", tensors.get("bias"))]:
                if tensor is not None:
                    found.rows(f"{name}.{leaf}", lambda low, high, tensor=tensor: tensor[low:high])  # type: ignore[misc]
        return found.result(f"{LIBRARY} {version(LIBRARY)}", *_notes(artifact, list(parts.values()), self.dtype))

    def _packs(self, part: Part) -> bool:
        # transformers (5.23) initialises a table before it loads, and a packed one has no `weight` by then.
        return part.role != "embedding" and (part.role != "head" or self.pack_head)

    def _folder(self, artifact: Artifact) -> Folder:
        dtype = DTYPES[self.dtype]
        tensors, packed = kept(artifact, dtype), []
        for part in artifact.plan.parts:
            if self._packs(part):
                packed.append(part)
                tensors |= _packed(artifact, part)
            else:
                tensors[part.tensor] = dequantized(artifact, part.name, dtype)
        return Folder(tensors, small_files(artifact, dtype, quantization_config=_configuration(artifact, packed)))


def _bits(spec: PlaneSpec) -> int:
    """Width of the signed codes."""
    bits = spec.bits[0]
    return max(2, bits + (spec.offset == "integer" and bits > 1))


def _packed(artifact: Artifact, part: Part) -> dict[str, Lazy]:
    rows, cols = part.shape
    spec = plane_spec(artifact.plan.specs[part.name])
    bits, groups = _bits(spec), len(spec.bits)
    step = max(1, CHUNK // cols)

    def chunks() -> Iterator[Integers]:
        for low in range(0, rows, step):
            yield signed(bit_planes(artifact.planes(part.name, low, min(low + step, rows))), bits)

    def meta(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    tensors = {
        "weight_packed": Lazy(
            meta((rows, -(-cols * bits // 32)), torch.int32), lambda: (words(chunk.codes, bits) for chunk in chunks())
        ),
        "weight_scale": Lazy(meta((rows, groups), torch.float32), lambda: (chunk.scale for chunk in chunks())),
        "weight_shape": Lazy.of(torch.tensor([rows, cols])),
    }
    return {f"{part.name}.{name}": tensor for name, tensor in tensors.items()}


def _configuration(artifact: Artifact, packed: Sequence[Part]) -> dict[str, Any]:
    """``quantization_config``: exact, disjoint names in numbered groups, everything else to be left alone."""
    members: dict[tuple[int, int], list[str]] = {}
    for part in packed:
        spec = plane_spec(artifact.plan.specs[part.name])
        members.setdefault((_bits(spec), spec.group_size), []).append(part.name)
    groups = {
        f"group_{number:03d}": {
            "targets": sorted(names),
            "weights": _arguments(*key),
            "input_activations": None,
            "output_activations": None,
            "format": FORMAT,
        }
        for number, (key, names) in enumerate(sorted(members.items()))
    }
    return {
        "quant_method": LIBRARY,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted(_untouched(artifact, packed)),
        "kv_cache_scheme": None,
        "version": version(LIBRARY),
    }


def _arguments(bits: int, group_size: int) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "strategy": "group",
        "group_size": group_size,
        "symmetric": True,
        "dynamic": False,
    }


def _untouched(artifact: Artifact, packed: Sequence[Part]) -> set[str]:
    plain = [part for part in artifact.plan.parts if part not in packed]
    layers = {name.removesuffix(".weight") for name, info in artifact.stored.items() if _is_layer(name, info.shape)}
    parts = {part.name for part in artifact.plan.parts}
    return (layers - parts) | {name for part in plain for name in (part.name, *part.tied)}


def _is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2


def _layers(out: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tensors by layer, one layer in memory at a time; a layer may stand in two shards."""
    files: dict[str, dict[str, Path]] = {}
    for file in sorted(out.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                owner, _, leaf = key.rpartition(".")
                files.setdefault(owner, {})[leaf] = file
    for owner, leaves in files.items():
        tensors = {}
        for leaf, file in leaves.items():
            with safe_open(file, framework="pt") as opened:
                tensors[leaf] = opened.get_tensor(f"{owner}.{leaf}")
        yield owner, tensors


def _check_layer(artifact: Artifact, part: Part, tensors: dict[str, Tensor], found: Comparison) -> None:
    require("compressed_tensors", extra=CompressedTensors.extra)
    packing = require("compressed_tensors.compressors.pack_quantized", extra=CompressedTensors.extra)
    schemes = require("compressed_tensors.quantization", extra=CompressedTensors.extra)
    spec = plane_spec(artifact.plan.specs[part.name])
    bits = _bits(spec)
    want = signed(bit_planes(artifact.planes(part.name)), bits)
    codes = packing.unpack_from_int32(tensors["weight_packed"], bits, torch.Size(part.shape))
    same = torch.equal(codes.to(torch.int16) + 2 ** (bits - 1), want.codes.to(torch.int16))
    same &= torch.equal(tensors["weight_scale"], want.scale)
    if not same:
        raise ArtifactError(f"{part.name} came back with other codes or scales", hint="please report this")
    scheme = schemes.QuantizationScheme(
        targets=[part.name],
        weights=schemes.QuantizationArgs(**_arguments(bits, spec.group_size)),
        format=FORMAT,
    )
    state = {leaf: tensor for leaf, tensor in tensors.items() if leaf.startswith("weight")}
    weight = packing.PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    found.rows(part.tensor, lambda low, high: weight[low:high])


def _notes(artifact: Artifact, packed: Sequence[Part], dtype: str) -> Iterator[str]:
    plain = [part for part in artifact.plan.parts if part not in packed]
    size = sum(part.numel for part in plain) * DTYPES[dtype].itemsize
    before = sum(artifact.plan.part_bytes(part) for part in plain)
    what = "the embedding is" if any(part.role == "head" for part in packed) else "embedding and head are"
    yield f"{what} plain {dtype} here, {size:,} bytes; in the artifact that takes {before:,}"
    specs = [plane_spec(artifact.plan.specs[part.name]) for part in packed]
    if wider := sum(_bits(spec) > max(spec.bits) for spec in specs):
        yield f"{wider} layers are stored a bit wider, in place of zero points; --set symmetric=true avoids it"
