"""`Part`: one weight that can be compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["attention", "mlp", "expert", "router", "embedding", "head", "conv", "other"]


@dataclass(frozen=True)
class Part:
    """One weight of a model.

    Attributes:
        name: dotted path of its module, such as ``model.layers.0.mlp.up_proj``.
        shape: (rows, cols): outputs and inputs of the product.
        role: what it does.
        block: index of its block; None for what stands before or after the blocks.
        expert: index among the experts of its layer.
        uses: how many times one forward pass multiplies by it.
        tied: names of other modules that read the same weight; it is stored once.
        copy_of: name of the part whose weights it repeats, changed by a transform (a head that was tied); its bytes
            count, but bits are not counted over its weights.
    """

    name: str
    shape: tuple[int, int]
    role: Role
    block: int | None = None
    expert: int | None = None
    uses: int = 1
    tied: tuple[str, ...] = ()
    copy_of: str = ""

    @property
    def tensor(self) -> str:
        """Name of the weight in a checkpoint."""
        return f"{self.name}.weight"

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]
