"""`Anatomy`: where one family of models keeps its blocks, embedding and head. One file a family beside this one.

A family whose modules are linear layers in a list of blocks needs nothing but the paths below. Other packages add
families through the entry-point group ``tailorbird.anatomies``: each entry names an `Anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from tailorbird.anatomy.part import Part, Role
from tailorbird.anatomy.wiring import Wiring


@dataclass(frozen=True)
class Anatomy:
    """One family of models.

    Attributes:
        name: how messages call the family.
        model_types: values of ``model_type`` in config.json that belong to it.
        blocks: path of the list of blocks; empty when the model is one block.
        embedding: path of the token embedding; empty when there is none.
        head: path of the output head; empty when there is none.
        roles: role by the name of the module that holds a linear layer, such as ``{"self_attn": "attention"}``.
        wiring: how the layers of a block hang together; None where nobody said, and no equivalent transform is known.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    embedding: str = ""
    head: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    wiring: Wiring | None = None

    def parts(self, module: nn.Module, tied: bool) -> list[Part]:
        """Every weight of `module` that can be compressed, in the order a forward pass meets them.

        Args:
            module: the model, on any device (meta too).
            tied: the head reads the embedding's weight, so that both are one part.
        """
        found = [
            self._part(name, layer, tied) for name, layer in module.named_modules() if self._packable(name, layer, tied)
        ]
        ends = {self.embedding: -1, self.head: 1}
        return sorted(found, key=lambda part: ends.get(part.name, 0))

    def block_names(self, module: nn.Module) -> list[str]:
        """Paths of the blocks; the model itself, as one block, where the family has no list of them."""
        if not self.blocks:
            return [""]
        return [f"{self.blocks}.{i}" for i, _ in enumerate(self._children(module))]

    def _children(self, module: nn.Module) -> Iterator[nn.Module]:
        return module.get_submodule(self.blocks).children()

    def _packable(self, name: str, layer: nn.Module, tied: bool) -> bool:
        if name == self.head and tied:
            return False
        if isinstance(layer, nn.Embedding):
            return name == self.embedding
        # Layers between the embedding and the blocks (OPT 350M's projections) are few and small: stored as they are.
        inside = not self.blocks or name == self.head or name.startswith(f"{self.blocks}.")
        return isinstance(layer, nn.Linear) and inside

    def _part(self, name: str, layer: nn.Module, tied: bool) -> Part:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        rows, cols = weight.shape
        if name == self.embedding:
            return Part(name, (rows, cols), "embedding", tied=(self.head,) if tied else ())
        if name == self.head:
            return Part(name, (rows, cols), "head")
        inside = bool(self.blocks) and name.startswith(f"{self.blocks}.")
        block = int(name[len(self.blocks) + 1 :].split(".")[0]) if inside else (None if self.blocks else 0)
        role: Role = next((self.roles[piece] for piece in reversed(name.split(".")) if piece in self.roles), "other")
        return Part(name, (rows, cols), role, block)
