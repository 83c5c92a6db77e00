"""config.json from GGUF metadata, in the form that transformers 5 writes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tailorbird.checkpoint.gguf_blocks import decode
from tailorbird.checkpoint.gguf_reader import GgufFile
from tailorbird.errors import ModelError

_TOKEN_IDS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def common_config(file: GgufFile) -> dict[str, Any]:
    """The fields that every family has: sizes, heads, token ids.

    The type is float32, in which the model is to be computed (Gemma overflows in float16); weights are
    stored in float16 nevertheless.

    Raises:
        ModelError: metadata are missing, or differ from layer to layer.
    """
    embedding = file.tensors["token_embd.weight"].shape
    heads = number(file, "attention.head_count")
    hidden = number(file, "embedding_length")
    if len(embedding) != 2 or embedding[1] != hidden:
        raise ModelError(
            f"{file.path}: token_embd.weight has shape {embedding}, but embedding_length is {hidden}",
            hint="fetch the GGUF file again",
        )
    config = {
        "vocab_size": embedding[0],
        "hidden_size": hidden,
        "intermediate_size": number(file, "feed_forward_length"),
        "num_hidden_layers": number(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number(file, "attention.head_count_kv", heads),
        "head_dim": head_dim(file),
        "rms_norm_eps": round_trip(file.value(_key(file, "attention.layer_norm_rms_epsilon"))),
        "max_position_embeddings": number(file, "context_length"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32",
    }
    for ours, theirs in _TOKEN_IDS.items():
        config[f"{ours}_token_id"] = file.metadata.get(f"tokenizer.ggml.{theirs}_token_id")
    return config


def plain_config(file: GgufFile) -> dict[str, Any]:
    """Llama, Mistral, Qwen2, Qwen3: nothing but the rotary embedding."""
    return {"rope_parameters": _rope(file, 10000.0)}


def phi3_config(file: GgufFile) -> dict[str, Any]:
    """Phi-3: partial rotary embedding, long and short factors, an optional window."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _theta(file, 10000.0)}
    rotary = number(file, "rope.dimension_count", head_dim(file))
    rope["partial_rotary_factor"] = rotary / head_dim(file)
    original = number(file, "rope.scaling.original_context_length", number(file, "context_length"))
    if "rope_factors_long.weight" in file.tensors and "rope_factors_short.weight" in file.tensors:
        rope["rope_type"] = "longrope"
        rope["long_factor"] = _vector(file, "rope_factors_long.weight")
        rope["short_factor"] = _vector(file, "rope_factors_short.weight")
        rope["original_max_position_embeddings"] = original
    window = file.metadata.get(_key(file, "attention.sliding_window")) or None
    return {
        "rope_parameters": rope,
        "sliding_window": window,
        "original_max_position_embeddings": original,
    }


def gemma_config(file: GgufFile) -> dict[str, Any]:
    """Gemma 1."""
    return {"rope_parameters": _rope(file, 10000.0), "hidden_act": "gelu_pytorch_tanh"}


def gemma2_config(file: GgufFile) -> dict[str, Any]:
    """Gemma 2: soft caps, every other layer with a window."""
    layers = number(file, "block_count")
    return {
        "rope_parameters": _rope(file, 10000.0),
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": round_trip(file.value(_key(file, "attn_logit_softcapping"), 50.0)),
        "final_logit_softcapping": round_trip(file.value(_key(file, "final_logit_softcapping"), 30.0)),
        "query_pre_attn_scalar": _query_scalar(file, large=layers == 46),
        "sliding_window": number(file, "attention.sliding_window", 4096),
        "layer_types": _layer_types(layers, 2),
    }


def gemma3_config(file: GgufFile) -> dict[str, Any]:
    """Gemma 3: five layers with a window and a rotary base of their own to one without."""
    layers = number(file, "block_count")
    local = round_trip(file.value(_key(file, "rope.freq_base_swa"), 10000.0))
    return {
        "rope_parameters": {
            "full_attention": _rope(file, 1000000.0),
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scalar(file, large=layers == 62),
        "sliding_window": number(file, "attention.sliding_window"),
        "layer_types": _layer_types(layers, number(file, "attention.sliding_window_pattern", 6)),
    }


def number(file: GgufFile, name: str, default: int | None = None) -> int:
    """A positive whole number of the architecture's metadata, the same in all layers.

    Raises:
        ModelError: missing, not positive, or different from layer to layer.
    """
    value = file.value(_key(file, name), default)
    if isinstance(value, list) and value and len(set(value)) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ModelError(
            f"{file.path}: the metadata {_key(file, name)!r} are {str(value)[:60]}, not one positive number",
            hint="models whose layers differ in size are not supported as GGUF; give the original folder",
        )
    return value


def head_dim(file: GgufFile) -> int:
    """Length of a head's query and key."""
    per_head = number(file, "embedding_length") // number(file, "attention.head_count")
    return number(file, "attention.key_length", per_head)


def round_trip(value: float) -> float:
    """The shortest decimal that means the same float32: 1e-06 rather than 9.999999974752427e-07."""
    return float(str(np.float32(value)))


def _key(file: GgufFile, name: str) -> str:
    return f"{file.value('general.architecture')}.{name}"


def _theta(file: GgufFile, default: float) -> float:
    return round_trip(file.value(_key(file, "rope.freq_base"), default))


def _layer_types(layers: int, period: int) -> list[str]:
    return ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]


def _query_scalar(file: GgufFile, *, large: bool) -> int:
    """The 27B models of Gemma 2 and 3 scale by hidden size over heads, the others by the head's length."""
    if large:
        return number(file, "embedding_length") // number(file, "attention.head_count")
    return head_dim(file)


def _rope(file: GgufFile, default_theta: float) -> dict[str, Any]:
    theta = _theta(file, default_theta)
    if "rope_freqs.weight" in file.tensors:
        return {"rope_theta": theta, **_llama3_rope(file, theta)}
    kind = file.metadata.get(_key(file, "rope.scaling.type"), "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = round_trip(file.value(_key(file, "rope.scaling.factor")))
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        original = number(file, "rope.scaling.original_context_length")
        scaling = {"factor": factor, "original_max_position_embeddings": original}
        return {"rope_type": "yarn", "rope_theta": theta, **scaling}
    raise ModelError(
        f"{file.path}: the rotary scaling {kind!r} is not supported",
        hint="give the original Hugging Face folder or id instead of the GGUF file",
    )


def _llama3_rope(file: GgufFile, theta: float) -> dict[str, Any]:
    """Llama 3.1's scaling, which GGUF keeps as the finished factors: find the parameters that give them."""
    factors = np.array(_vector(file, "rope_freqs.weight"))
    scaling = {"factor": round_trip(float(factors.max())), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    wavelength = 2 * math.pi * theta ** (np.arange(0, 2 * len(factors), 2) / head_dim(file))
    for original in (8192, 4096, 16384, 32768):
        smooth = np.clip((original / wavelength - 1.0) / 3.0, 0.0, 1.0)
        if np.allclose(1 / ((1 - smooth) / scaling["factor"] + smooth), factors, rtol=1e-3):
            return {"rope_type": "llama3", **scaling, "original_max_position_embeddings": original}
    raise ModelError(
        f"{file.path}: rope_freqs.weight is not the scaling of Llama 3.1",
        hint="give the original Hugging Face folder or id instead of the GGUF file",
    )


def _vector(file: GgufFile, name: str) -> list[float]:
    tensor = file.tensors[name]
    values = decode(file.read(tensor, 0, tensor.nbytes), tensor.type_name, tensor.shape)
    return [round_trip(value) for value in values.ravel()[:4096]]
