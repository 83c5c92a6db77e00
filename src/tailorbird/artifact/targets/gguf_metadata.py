"""GGUF metadata of a model from its config.json: the way back of `checkpoint.gguf_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tailorbird.checkpoint.gguf_families import FAMILIES, Family
from tailorbird.errors import ModelError

# model_type of config.json -> general.architecture of those that `metadata` knows.
_ARCHITECTURES = {
    **{"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3"},
    **{"gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3"},
}
# llama.cpp takes every so many-th layer as one without a window,
_PERIODS = {"gemma2": 2, "gemma3": 6}
# and models of so many layers, the 27B ones, as scaled by hidden size over heads.
_LARGE = {"gemma2": 46, "gemma3": 62}


def family_of(config: Mapping[str, Any]) -> tuple[str, Family]:
    """Architecture in GGUF and its table.

    Raises:
        ModelError: a family that can't be written.
    """
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise ModelError(
            f"models of type {kind!r} can't be written as GGUF", hint=f"those that can: {', '.join(_ARCHITECTURES)}"
        )
    return _ARCHITECTURES[kind], FAMILIES[_ARCHITECTURES[kind]]


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the model, without ``general.architecture`` and the tokenizer.

    Raises:
        ModelError: a setting that llama.cpp has no key for.
    """
    arch, _ = family_of(config)
    try:
        values = _common(config) | _OWN.get(arch, _plain)(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as cause:
        raise ModelError(
            f"config.json lacks what GGUF needs: {type(cause).__name__}: {cause}", hint="make the artifact again"
        ) from cause
    return {f"{arch}.{key}": value for key, value in values.items()}


def rope_factors(config: Mapping[str, Any]) -> Tensor | None:
    """What Llama 3.1's scaling divides each frequency by, float32 (head_dim / 2,); None for other scalings."""
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    powers = torch.arange(0, _head_dim(config), 2, dtype=torch.float64) / _head_dim(config)
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** powers
    turns: Tensor = float(rope["original_max_position_embeddings"]) / wavelength
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return torch.reciprocal((1 - smooth) / float(rope["factor"]) + smooth).float()


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    heads = int(config["num_attention_heads"])
    return {
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "block_count": int(config["num_hidden_layers"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": _head_dim(config),
        "attention.value_length": _head_dim(config),
        "rope.dimension_count": _head_dim(config),
        "vocab_size": int(config["vocab_size"]),
    }


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("use_sliding_window"):
        raise _unknown("use_sliding_window", True)
    rope, values = _rope(config), {}
    values["rope.freq_base"] = float(rope["rope_theta"])
    if window := config.get("sliding_window"):  # llama.cpp has none here: within a window nothing changes
        values["context_length"] = min(int(config["max_position_embeddings"]), int(window))
    return values | _scaling(rope)


def _phi3(config: Mapping[str, Any]) -> dict[str, Any]:
    """A window of 0 is none; llama.cpp chooses the long factors where the context is longer than the original one."""
    rope = _rope(config)
    if rope.get("rope_type", "default") not in ("default", "longrope"):
        raise _unknown("rope_parameters", dict(rope))
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    longest, original = int(config["max_position_embeddings"]), _original(config)
    values: dict[str, Any] = {
        "rope.dimension_count": int(_head_dim(config) * float(1.0 if share is None else share)),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.scaling.original_context_length": original,
        "attention.sliding_window": int(config.get("sliding_window") or 0),
    }
    if rope.get("rope_type") == "longrope":
        # Beyond the original length the attention is scaled, as transformers does.
        scale = longest / original
        usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        given = rope.get("attention_factor")
        values["rope.scaling.attn_factor"] = float(usual if given is None else given)
    return values


def rope_tables(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by name that carry a rotary scaling: `rope_factors`, or Phi-3's long and short factors."""
    rope = _rope(config)
    if config.get("model_type") == "phi3" and rope.get("rope_type") == "longrope":
        sizes = ("long", "short")
        return {f"rope_factors_{size}.weight": torch.tensor(rope[f"{size}_factor"]).float() for size in sizes}
    factors = rope_factors(config)
    return {} if factors is None else {"rope_freqs.weight": factors}


def _original(config: Mapping[str, Any]) -> int:
    """The context a model was first trained for."""
    name = "original_max_position_embeddings"
    return int(_rope(config).get(name) or config.get(name) or config["max_position_embeddings"])


def _check_layers(config: Mapping[str, Any], arch: str) -> None:
    """Windows and the scale of queries are not told in the file: llama.cpp knows them."""
    layers, usual = int(config["num_hidden_layers"]), _PERIODS[arch]
    period = int(config.get("sliding_window_pattern") or usual)
    pattern = ["full" if (layer + 1) % period == 0 else "sliding" for layer in range(layers)]
    types = [str(kind).removesuffix("_attention") for kind in config.get("layer_types") or pattern]
    if types != ["full" if (layer + 1) % usual == 0 else "sliding" for layer in range(layers)]:
        raise _unknown("layer_types", config.get("layer_types"))
    large = layers == _LARGE[arch]
    scalar = int(config["hidden_size"]) // int(config["num_attention_heads"]) if large else _head_dim(config)
    if config.get("query_pre_attn_scalar", scalar) != scalar:
        raise _unknown("query_pre_attn_scalar", config["query_pre_attn_scalar"])


def _gemma2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both caps are always there in llama.cpp."""
    _check_layers(config, "gemma2")
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    for name in caps:
        if not config.get(name):
            raise _unknown(name, config.get(name))
    rope = _rope(config)
    return {
        "rope.freq_base": float(rope["rope_theta"]),
        "attention.sliding_window": int(config["sliding_window"]),
        **{name: float(config[name]) for name in caps},
        **_scaling(rope),
    }


def _gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    _check_layers(config, "gemma3")
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.get(name):
            raise _unknown(name, config[name])
    rope, local = _rope(config, "full_attention"), _rope(config, "sliding_attention")
    return {
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.freq_base_swa": float(local["rope_theta"]),
        "attention.sliding_window": int(config["sliding_window"]),
        **_scaling(rope),
    }


_OWN = {"phi3": _phi3, "gemma2": _gemma2, "gemma3": _gemma3}


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn" and not set(rope) - {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}:
        original = int(rope["original_max_position_embeddings"])
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": original,
        }
    raise _unknown("rope_parameters", dict(rope))


def _rope(config: Mapping[str, Any], layer_type: str = "") -> dict[str, Any]:
    """Rotary settings as transformers 5 writes them, or from the fields older configs have."""
    found = config.get("rope_parameters")
    if found:
        return dict(found.get(layer_type, found))
    if layer_type == "sliding_attention":
        return {"rope_type": "default", "rope_theta": config.get("rope_local_base_freq", 10000.0)}
    scaling = dict(config.get("rope_scaling") or {})
    scaling.setdefault("rope_type", scaling.pop("type", "default"))
    default = 1e6 if layer_type else 10000.0
    return {"rope_theta": config.get("rope_theta", default), **scaling}


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def _unknown(name: str, value: Any) -> ModelError:
    return ModelError(
        f"config.json has {name} = {str(value)[:80]}, which llama.cpp can't be told", hint="choose another target"
    )
