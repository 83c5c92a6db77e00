"""`Wiring`: which layers of a block read, write or follow which, as far as equivalent transforms need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Wiring:
    """How the layers of a block hang together; paths are relative to the block, those a model lacks are left out.

    Attributes:
        norms: by norm the linear layers that read its output; nothing else does.
        writers: layers whose output is added to the residual stream as it is; empty where a norm comes between.
        values: pairs of layers, the second of which reads sums of the first one's outputs, head by head.
        products: pairs of layers, the second of which reads the first one's outputs times something else.
        scored: layers whose outputs are multiplied with each other, so that one large value decides.
        final_norm: path, in the model, of the norm in front of the head.
        unit: the stored weight of a norm whose gain is one: gain = weight + 1 - unit.
    """

    norms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    writers: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = (("self_attn.v_proj", "self_attn.o_proj"),)
    products: tuple[tuple[str, str], ...] = (("mlp.up_proj", "mlp.down_proj"),)
    scored: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.qkv_proj")
    final_norm: str = "model.norm"
    unit: float = 1.0

    @property
    def readers(self) -> tuple[str, ...]:
        """Layers that read the residual stream."""
        return tuple(layer for layers in self.norms.values() for layer in layers)


ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj")
WRITERS = ("self_attn.o_proj", "mlp.down_proj")
