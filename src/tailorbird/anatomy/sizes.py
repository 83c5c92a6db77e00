"""What config.json claims, against the tensors there are, before any module is built from it.

A module takes memory even without its weights (layers are objects, rotary tables are real), so a configuration from
outside must not ask for more than its weights can fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tailorbird.errors import ModelError

# Each is at most the largest dimension of some weight.
_WIDTHS = (
    "vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_attention_heads", "num_key_value_heads",
    "ffn_dim", "word_embed_proj_dim",
)  # fmt: skip
_LAYERS = "num_hidden_layers"
_ROTARY = "partial_rotary_factor"


class Shaped(Protocol):
    """Anything with a shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...


def check_sizes(config: Mapping[str, Any], tensors: Mapping[str, Shaped], source: str) -> None:
    """Refuse a configuration of a model that is larger than its weights.

    Raises:
        ModelError: more layers than tensors, a width beyond the largest dimension, or a rotary part of more than all;
            the message names the key.
    """
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    limits = dict.fromkeys(_WIDTHS, largest) | {_LAYERS: len(tensors), _ROTARY: 1}
    for place in (config, config.get("rope_parameters"), config.get("rope_scaling")):
        for key, value in _pairs(place):
            if key in limits and isinstance(value, int | float) and not value <= limits[key]:
                raise ModelError(
                    f"{source}: config.json says {key} = {str(value)[:40]}, the tensors allow {limits[key]} at most",
                    hint="config.json does not belong to these weights: fetch both again",
                )


def _pairs(place: Any) -> list[tuple[str, Any]]:
    """Keys and values of an object and of the objects in it, one level deep (rotary settings by kind of layer)."""
    if not isinstance(place, Mapping):
        return []
    inner = [pair for value in place.values() if isinstance(value, Mapping) for pair in value.items()]
    return [*place.items(), *inner]
