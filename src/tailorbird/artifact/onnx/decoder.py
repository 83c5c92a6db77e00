"""The decoder of the llama-like and Gemma 3 families as ONNX nodes: token ids in, logits of every position out.

RMS norms, rotary positions, grouped-query attention under a causal or sliding mask, gated MLP, tied or own head; no
key-value cache. What a configuration leaves open (scales, frequencies, layer types) is read off the modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tailorbird.anatomy import Model
from tailorbird.artifact.folder import Told
from tailorbird.artifact.onnx.graph import Graph
from tailorbird.artifact.onnx.weights import Weights
from tailorbird.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_FAR = -3.4e38
_SILU, _GELU = ("silu", "swish"), ("gelu_pytorch_tanh",)


def check_family(model: Model) -> None:
    """Refuse what `decoder` does not know.

    Raises:
        ModelError: another family, activation, or a rotary table that depends on the length of the text.
    """
    config: Any = model.module.config
    hint = "export it with --to hf"
    if config.model_type not in FAMILIES:
        raise ModelError(f"there is no ONNX graph for {config.model_type!r}", hint=f"for {', '.join(FAMILIES)}; {hint}")
    if _activation(config) not in (*_SILU, *_GELU):
        raise ModelError(f"there is no ONNX graph for the activation {_activation(config)!r}", hint=hint)
    parameters = getattr(config, "rope_parameters", None) or {}
    for each in [parameters, *parameters.values()]:
        if isinstance(each, dict) and each.get("rope_type", "default") in ("dynamic", "longrope"):
            raise ModelError("there is no ONNX graph for rotary positions that depend on the length", hint=hint)
    soft = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")
    if any(getattr(config, name, None) for name in soft):
        raise ModelError(f"there is no ONNX graph for {' or '.join(soft)}", hint=hint)


class Decoder:
    """Builds the nodes of one model.

    Args:
        graph: where they go.
        model: the artifact, laid out.
        weights: its packed parts.
        told: told how many blocks are done.
    """

    def __init__(self, graph: Graph, model: Model, weights: Weights, told: Told) -> None:
        self.graph, self.model, self.weights = graph, model, weights
        self.config: Any = model.module.config
        self.gemma = str(model.config["model_type"]).startswith("gemma")
        self.told = told
        self._shared: dict[str, Any] = {}

    def logits(self, ids: str) -> str:
        """Logits (batch, length, vocabulary) of token ids (batch, length)."""
        g, anatomy = self.graph, self.model.anatomy
        x = self.weights.rows(ids, anatomy.embedding)
        scale = getattr(self.model.module.get_submodule(anatomy.embedding), "embed_scale", None)
        if scale is not None:
            x = g.add("Mul", x, g.constant(float(scale)))
        self._positions(ids)
        for number, name in enumerate(self.model.blocks):
            self.told("writing", number, len(self.model.blocks))
            x = self._block(x, name)
        return self.weights.product(self._norm(x, "model.norm"), anatomy.head)

    def _block(self, x: str, name: str) -> str:
        block = self.model.module.get_submodule(name)
        inner = self._attention(self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
        if hasattr(block, "pre_feedforward_layernorm"):
            x = self.graph.add("Add", x, self._norm(inner, f"{name}.post_attention_layernorm"))
            inner = self._mlp(self._norm(x, f"{name}.pre_feedforward_layernorm"), f"{name}.mlp")
            return self.graph.add("Add", x, self._norm(inner, f"{name}.post_feedforward_layernorm"))
        x = self.graph.add("Add", x, inner)
        return self.graph.add("Add", x, self._mlp(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp"))

    def _mlp(self, x: str, name: str) -> str:
        g = self.graph
        gate = self.weights.product(x, f"{name}.gate_proj")
        if _activation(self.config) in _SILU:
            gate = g.add("Mul", gate, g.add("Sigmoid", gate))
        else:
            gate = g.add("Gelu", gate, approximate="tanh")
        inner = g.add("Mul", gate, self.weights.product(x, f"{name}.up_proj"))
        return self.weights.product(inner, f"{name}.down_proj")

    def _attention(self, x: str, name: str) -> str:
        g, module = self.graph, self.model.module.get_submodule(name)
        heads, shared = self.config.num_attention_heads, self.config.num_key_value_heads
        size = int(module.head_dim)  # type: ignore[arg-type]
        kind = self._kind(module)

        def split(leaf: str, norm: str, rotate: bool) -> str:
            count = heads if leaf == "q_proj" else shared
            y = g.add("Reshape", self.weights.product(x, f"{name}.{leaf}"), g.constant([0, 0, count, size]))
            if hasattr(module, norm):
                y = self._norm(y, f"{name}.{norm}")
            y = g.add("Transpose", y, perm=[0, 2, 1, 3])
            y = self._rotated(y, kind, size) if rotate else y
            # Query heads that share a key head lie side by side: (batch, shared, heads of each, length, size).
            return g.add("Reshape", y, g.constant([0, shared, count // shared, -1, size]))

        q, k = split("q_proj", "q_norm", True), split("k_proj", "k_norm", True)
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 1, 2, 4, 3]))
        scores = g.add("Mul", scores, g.constant(float(module.scaling)))  # type: ignore[arg-type]
        weights = g.add("Softmax", g.add("Add", scores, self._mask(self._window(module))), axis=-1)
        mixed = g.add("MatMul", weights, split("v_proj", "v_norm", False))
        mixed = g.add("Transpose", mixed, perm=[0, 3, 1, 2, 4])
        return self.weights.product(g.add("Reshape", mixed, g.constant([0, 0, heads * size])), f"{name}.o_proj")

    def _norm(self, x: str, name: str) -> str:
        """x / sqrt(mean(x^2) + eps) * weight, over the last dimension; Gemma keeps the weight less one."""
        g, module = self.graph, self.model.module.get_submodule(name)
        eps = float(getattr(module, "variance_epsilon", None) or module.eps)  # type: ignore[arg-type]
        weight = self.model.read(f"{name}.weight").float()
        mean = g.add("ReduceMean", g.add("Mul", x, x), g.constant([-1]), keepdims=1)
        x = g.add("Div", x, g.add("Sqrt", g.add("Add", mean, g.constant(eps))))
        return g.add("Mul", x, g.constant(1 + weight if self.gemma else weight, f"{name}.weight"))

    def _positions(self, ids: str) -> None:
        g = self.graph
        length = g.add("Gather", g.add("Shape", ids), g.constant(torch.tensor(1)))
        at = g.add("Range", g.constant(torch.tensor(0)), length, g.constant(torch.tensor(1)))
        column = g.add("Unsqueeze", at, g.constant([1]))
        self._shared["at"] = g.add("Cast", column, to=1)
        self._shared["ago"] = g.add("Sub", column, g.add("Unsqueeze", at, g.constant([0])))

    def _mask(self, window: int | None) -> str:
        """0 where a query may look, else far below zero: (length, length)."""
        g, key = self.graph, f"mask {window}"
        if key not in self._shared:
            allowed = g.add("GreaterOrEqual", self._shared["ago"], g.constant(torch.tensor(0)))
            if window is not None:
                near = g.add("Less", self._shared["ago"], g.constant(torch.tensor(window)))
                allowed = g.add("And", allowed, near)
            self._shared[key] = g.add("Where", allowed, g.constant(0.0), g.constant(_FAR))
        return str(self._shared[key])

    def _rotated(self, x: str, kind: str, size: int) -> str:
        g = self.graph
        cosine, sine = self._rotary(kind)
        half = g.constant([size // 2])
        first = g.add("Slice", x, g.constant([0]), half, g.constant([3]))
        second = g.add("Slice", x, half, g.constant([size]), g.constant([3]))
        turned = g.add("Concat", g.add("Neg", second), first, axis=-1)
        return g.add("Add", g.add("Mul", x, cosine), g.add("Mul", turned, sine))

    def _rotary(self, kind: str) -> tuple[str, str]:
        """Cosine and sine (length, size) of a kind of layer."""
        g, key = self.graph, f"rotary {kind}"
        if key not in self._shared:
            rotary = self.model.module.get_submodule("model.rotary_emb")
            prefix = f"{kind}_" if hasattr(rotary, f"{kind}_inv_freq") else ""
            frequency = getattr(rotary, f"{prefix}inv_freq")
            scaling = float(getattr(rotary, f"{prefix}attention_scaling"))
            both = torch.cat((frequency, frequency)).float()
            angle = g.add("Mul", self._shared["at"], g.constant(both))
            pair = (g.add("Cos", angle), g.add("Sin", angle))
            if scaling != 1:
                pair = (g.add("Mul", pair[0], g.constant(scaling)), g.add("Mul", pair[1], g.constant(scaling)))
            self._shared[key] = pair
        found: tuple[str, str] = self._shared[key]
        return found

    def _kind(self, module: nn.Module) -> str:
        return str(getattr(module, "layer_type", None) or "full_attention")

    def _window(self, module: nn.Module) -> int | None:
        if self.config.model_type == "mistral":
            return _whole(self.config.sliding_window)
        return _whole(getattr(module, "sliding_window", None))


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)
