"""The native decoder: a whole forward pass of a llama-like model in one call, over its packed weights.

A torch module needs some microseconds for every one of its hundreds of operations, which is as long as reading the
packed weights takes. `native_decoder` reads from the module what its layers consist of and hands it to
`kernels/cpp/decoder.h`, which computes the same in C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailorbird.kernels.matrix import Activations
from tailorbird.kernels.native import extension
from tailorbird.kernels.rows import RowMatrix
from tailorbird.runtime.weights import NativeWeight

_PLUS_ONE = {"gemma", "gemma2", "gemma3_text"}
_KINDS = {"llama", "mistral", "qwen2", "qwen3", "phi3"} | _PLUS_ONE
_GATES = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Tables that change with the length of the text are left to the module.
_FIXED_ROPES = {"default", "linear", "llama3", "yarn", "proportional"}

PREFILL = 256
"""Tokens of a prompt that go through the model together: as many as keep scratch small and arithmetic busy."""

Cached = Literal["bf16", "int8"]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How a native decoder computes.

    Attributes:
        activations: ``int8``: activations are rounded to 8 bits by group where they meet packed weights; ``fp32``: not.
        cache: ``bf16`` or ``int8`` keys and values; 8-bit ones have a scale a position and head.
    """

    activations: Activations = "int8"
    cache: Cached = "bf16"


class NativeDecoder:
    """A model's forward pass over one sequence at a time, with its keys and values."""

    def __init__(self, decoder: Any, vocabulary: int, settings: Settings) -> None:
        self.decoder, self.vocabulary, self.settings = decoder, vocabulary, settings

    @property
    def product_seconds(self) -> float:
        """Seconds spent on products with packed weights so far; the rest is norms, attention and the like."""
        return float(self.decoder.product_seconds)

    def start(self, capacity: int) -> Text:
        """Room for a sequence of so many tokens."""
        cache = _module().Cache(self.decoder, capacity, self.settings.cache == "int8")
        return Text(self, cache)


class Text:
    """One text in the making: its keys and values, and how many tokens it has."""

    def __init__(self, owner: NativeDecoder, cache: Any) -> None:
        self.owner, self.cache, self.length = owner, cache, 0

    def push(self, tokens: Sequence[int], keep: int = 1) -> Tensor:
        """Append tokens; float32 logits (keep, vocabulary) after the last `keep` of them."""
        logits = np.empty((min(keep, len(tokens)), self.owner.vocabulary), dtype=np.float32)
        self.fill(tokens, logits)
        return torch.from_numpy(logits)

    def fill(self, tokens: Sequence[int], logits: Logits) -> None:
        """Append tokens; `logits`, (keep, vocabulary), become those after the last `keep` of them."""
        keep, done = len(logits), 0
        for low in range(0, len(tokens), PREFILL):
            high = min(low + PREFILL, len(tokens))
            wanted = max(0, high - max(low, len(tokens) - keep))
            ids, rows = np.asarray(tokens[low:high], dtype=np.int64), logits[done : done + wanted]
            self.owner.decoder.forward(ids, self.length, self.cache, rows, self.owner.settings.activations)
            self.length += high - low
            done += wanted


class NativeSteps:
    """Logits of the next token, one step at a time."""

    def __init__(self, text: Text, ids: Sequence[int]) -> None:
        self.text, self.waiting = text, list(ids)
        self.logits = np.empty((1, text.owner.vocabulary), dtype=np.float32)
        self.last: Logits = self.logits[0]

    def feed(self, token: int) -> None:
        """The token that was chosen."""
        self.waiting.append(token)

    def __next__(self) -> Logits:
        """float32 (vocabulary,); the next step writes over it."""
        ids, self.waiting = self.waiting, []
        self.text.fill(ids, self.logits)
        return self.last


def native_decoder(module: nn.Module, settings: Settings) -> NativeDecoder | None:
    """The native form of a causal language model; None where it has something that the native one has not.

    Args:
        module: as transformers builds it, with packed layers.
        settings: how to compute.
    """
    config: Any = module.config
    inner: Any = module.model if hasattr(module, "model") else None
    if inner is None or config.model_type not in _KINDS or _gate(config) is None:
        return None
    ropes = _ropes(inner)
    inside = [layer for layer in inner.layers.modules() if isinstance(layer, nn.Linear | nn.Embedding)]
    if ropes is None or any(_matrix(layer) is None for layer in inside):
        return None
    embedding, head = _table(inner.embed_tokens), _table(module.lm_head)
    if embedding is None or head is None:
        return None
    build = _Builder(config, list(ropes))
    decoder = _module().Decoder(
        epsilon=config.rms_norm_eps,
        embedding_scale=float(getattr(inner.embed_tokens, "scalar_embed_scale", 1.0)),
        logit_cap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        layers=[build.layer(layer) for layer in inner.layers],
        ropes=list(ropes.values()),
        embedding=embedding,
        norm=build.norm(inner.norm),
        head=head,
    )
    return NativeDecoder(decoder, inner.embed_tokens.num_embeddings, settings)


class _Builder:
    """Reads layers of a module."""

    def __init__(self, config: Any, ropes: list[str]) -> None:
        self.config, self.ropes = config, ropes

    def layer(self, layer: Any) -> Any:
        attention, mlp, sandwich = layer.self_attn, layer.mlp, hasattr(layer, "pre_feedforward_layernorm")
        kind = getattr(attention, "layer_type", None)
        return _module().Layer(
            heads=self.config.num_attention_heads,
            kv_heads=self.config.num_key_value_heads,
            head_dim=attention.head_dim,
            window=self._window(attention),
            scale=float(attention.scaling),
            soft_cap=float(getattr(attention, "attn_logit_softcapping", None) or 0.0),
            rope=self.ropes.index(kind) if kind in self.ropes else 0,
            gate=_gate(self.config),
            before_attention=self.norm(layer.input_layernorm),
            after_attention=self.norm(layer.post_attention_layernorm) if sandwich else None,
            before_mlp=self.norm(layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm),
            after_mlp=self.norm(layer.post_feedforward_layernorm) if sandwich else None,
            query_norm=self.norm(getattr(attention, "q_norm", None)),
            key_norm=self.norm(getattr(attention, "k_norm", None)),
            qkv=self._linears(attention, "qkv_proj", ("q_proj", "k_proj", "v_proj")),
            output=self.linear(attention.o_proj),
            gate_up=self._linears(mlp, "gate_up_proj", ("gate_proj", "up_proj")),
            down=self.linear(mlp.down_proj),
        )

    def _linears(self, owner: Any, fused: str, apart: tuple[str, ...]) -> list[Any]:
        names = (fused,) if hasattr(owner, fused) else apart
        return [self.linear(getattr(owner, name)) for name in names]

    def linear(self, layer: Any) -> Any:
        return _module().Linear(_matrix(layer), None if layer.bias is None else _numbers(layer.bias))

    def norm(self, norm: Any) -> Any:
        if norm is None:
            return None
        return _numbers(norm.weight + 1 if self.config.model_type in _PLUS_ONE else norm.weight)

    def _window(self, attention: Any) -> int:
        if hasattr(attention, "sliding_window"):
            return attention.sliding_window or 0
        return getattr(self.config, "sliding_window", None) or 0 if self.config.model_type in ("mistral", "phi3") else 0


def _ropes(inner: Any) -> dict[str, Any] | None:
    """Rotary tables by kind of layer; None where they depend on the length of the text."""
    rotary = inner.rotary_emb
    kinds = rotary.rope_type
    kinds = kinds if isinstance(kinds, dict) else {"": kinds}
    if not set(kinds.values()) <= _FIXED_ROPES:
        return None
    found = {}
    for kind in kinds:
        prefix = f"{kind}_" if kind else ""
        frequency = getattr(rotary, f"{prefix}inv_freq")
        found[kind] = _module().Rope(_numbers(frequency), float(getattr(rotary, f"{prefix}attention_scaling")))
    return found


def _matrix(layer: nn.Module) -> Any:
    """The native matrix of a packed layer; None for any other."""
    weight = getattr(layer, "native", None)
    return getattr(weight.matrix, "native", None) if isinstance(weight, NativeWeight) else None


def _table(layer: Any) -> Any:
    """The native form of an embedding or a head, whose rows may be in several matrices; None for any other."""
    weight = getattr(layer, "native", None)
    if not isinstance(weight, NativeWeight):
        return None
    bias = getattr(layer, "bias", None)
    if not isinstance(weight.matrix, RowMatrix):
        return _module().Table([_linear(weight.matrix, bias)], [])
    rows = weight.matrix.rows
    parts = [
        _linear(one, None if bias is None else bias[mine]) for one, mine in zip(weight.matrix.parts, rows, strict=True)
    ]
    return _module().Table(parts, [mine.int().numpy() for mine in rows])


def _linear(matrix: Any, bias: Tensor | None) -> Any:
    return _module().Linear(matrix.native, None if bias is None else _numbers(bias))


def _gate(config: Any) -> str | None:
    name = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return _GATES.get(str(name))


def _numbers(tensor: Tensor) -> Any:
    return tensor.detach().float().contiguous().numpy()


def _module() -> Any:
    module = extension()
    assert module is not None  # the matrices came from it
    return module
