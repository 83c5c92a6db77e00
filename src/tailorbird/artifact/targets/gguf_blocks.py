"""An artifact some of whose parts are given as blocks, fitted to the original model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tailorbird.artifact.reader import Artifact
from tailorbird.errors import ArtifactError
from tailorbird.formats import ggml
from tailorbird.formats.ggml import BlockType
from tailorbird.formats.safetensors_header import TensorInfo, read_rows


@dataclass(frozen=True)
class BlockArtifact(Artifact):
    """An artifact read with other weights than it stores.

    Attributes:
        blocks: type and stored blocks, uint8 (rows, bytes of a row), by part name; other parts are as they were.
    """

    blocks: Mapping[str, tuple[BlockType, TensorInfo]]

    @classmethod
    def of(cls, artifact: Artifact, blocks: Mapping[str, tuple[BlockType, TensorInfo]]) -> BlockArtifact:
        """The artifact with these blocks."""
        return cls(artifact.folder, artifact.manifest, artifact.config, artifact.plan, artifact.stored, blocks)

    def raw(self, part: str, start: int, stop: int) -> Tensor:
        """Blocks of rows start to stop."""
        return read_rows(self.blocks[part][1], start, stop, error=ArtifactError)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor; blocks unpacked to float32."""
        part = name.removesuffix(".weight")
        if part == name or part not in self.blocks:
            return super().read_rows(name, start, stop)
        return ggml.decode(self.raw(part, start, stop), self.blocks[part][0])

    def read(self, name: str) -> Tensor:
        """A tensor of the model."""
        part = name.removesuffix(".weight")
        if part == name or part not in self.blocks:
            return super().read(name)
        return self.read_rows(name, 0, self.blocks[part][1].shape[0])
