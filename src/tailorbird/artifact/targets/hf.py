"""Plain safetensors: what transformers, and whatever reads its folders, loads without any extra."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors
import torch
from safetensors import safe_open

from tailorbird.artifact.folder import DTYPES, Folder, dequantized, dtype_of, kept, small_files
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.compare import Comparison
from tailorbird.artifact.targets.target import Check, Target, Told

# Half the spacing of a type's numbers, relative to the largest below a power of two.
_ROUNDING = {"fp32": 0.0, "bf16": 2**-8, "fp16": 2**-11}


@dataclass(frozen=True, kw_only=True)
class HF(Target):
    """Weights as plain numbers; any format can be carried.

    Attributes:
        dtype: ``bf16`` or ``fp16``, which round, or ``fp32``, which is exact.
    """

    name: ClassVar[str] = "hf"
    summary: ClassVar[str] = "plain safetensors for transformers; any format, unpacked"

    dtype: str = "bf16"

    def __post_init__(self) -> None:
        """Refuse a type that does not exist."""
        dtype_of(self.dtype)

    def write(self, artifact: Artifact, out: Path, told: Told) -> None:
        """Write shards, config.json and the tokenizer."""
        self._folder(artifact).write(out, told)

    def planned_bytes(self, artifact: Artifact) -> int:
        """Bytes of all files."""
        return self._folder(artifact).nbytes

    def check(self, artifact: Artifact, out: Path) -> Check:
        """Compare what safetensors reads with the artifact."""
        found = Comparison(artifact, _ROUNDING[self.dtype], "" if self.dtype == "fp32" else f"{self.dtype} rounds")
        for file in sorted(out.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    piece = opened.get_slice(name) if artifact.tensors[name].shape else opened.get_tensor(name)[None]
                    found.rows(name, lambda low, high, piece=piece: torch.as_tensor(piece[low:high]))  # type: ignore[misc]
        return found.result(f"safetensors {safetensors.__version__}")

    def _folder(self, artifact: Artifact) -> Folder:
        dtype = DTYPES[self.dtype]
        weights = {part.tensor: dequantized(artifact, part.name, dtype) for part in artifact.plan.parts}
        return Folder(weights | kept(artifact, dtype), small_files(artifact, dtype) if artifact.config else {})
