"""What GGUF calls the weights of each family, and how the file's metadata become a config.json.

Names and conventions are those of llama.cpp's converters: llama's query and key rows are re-ordered for its
rotary embedding, Gemma's norms are stored with one added.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tailorbird.checkpoint.gguf_config import (
    gemma2_config,
    gemma3_config,
    gemma_config,
    phi3_config,
    plain_config,
)
from tailorbird.checkpoint.gguf_reader import GgufFile
from tailorbird.errors import ModelError

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_OPTIONAL = {"output.weight", *_ROPE_TENSORS}
_QKV = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
}
_OUT = {"attn_output.weight": "self_attn.o_proj.weight", "ffn_down.weight": "mlp.down_proj.weight"}
_GATED = {"ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight"}
_TWO_NORMS = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_FOUR_NORMS = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
_QK_NORMS = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}
_QKV_BIASES = {name.replace("weight", "bias"): to.replace("weight", "bias") for name, to in _QKV.items()}
_LLAMA = {**_QKV, **_OUT, **_GATED, **_TWO_NORMS}


@dataclass(frozen=True)
class Family:
    """How one `general.architecture` maps to a Hugging Face model.

    Attributes:
        model_type: of config.json.
        architecture: class name of the causal language model.
        parts: name within a block -> name within a layer.
        config: fields of config.json beside the common ones.
        permuted: query and key rows are stored in llama's rotary order.
        norm_offset: what the file adds to norm weights.
    """

    model_type: str
    architecture: str
    parts: dict[str, str]
    config: Callable[[GgufFile], dict[str, Any]] = plain_config
    permuted: bool = False
    norm_offset: float = 0.0


FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", _LLAMA, permuted=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", {**_LLAMA, **_QKV_BIASES}),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", {**_LLAMA, **_QK_NORMS}),
    "phi3": Family(
        "phi3",
        "Phi3ForCausalLM",
        {
            "attn_qkv.weight": "self_attn.qkv_proj.weight",
            "ffn_up.weight": "mlp.gate_up_proj.weight",
            **_OUT,
            **_TWO_NORMS,
        },
        phi3_config,
    ),
    "gemma": Family("gemma", "GemmaForCausalLM", _LLAMA, gemma_config, norm_offset=1.0),
    "gemma2": Family(
        "gemma2",
        "Gemma2ForCausalLM",
        {**_QKV, **_OUT, **_GATED, **_FOUR_NORMS},
        gemma2_config,
        norm_offset=1.0,
    ),
    "gemma3": Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**_QKV, **_OUT, **_GATED, **_FOUR_NORMS, **_QK_NORMS},
        gemma3_config,
        norm_offset=1.0,
    ),
}


def family_of(file: GgufFile) -> Family:
    """The family of a file.

    Raises:
        ModelError: an architecture that is not in the table.
    """
    name = file.value("general.architecture")
    if name not in FAMILIES:
        raise ModelError(
            f"{file.path}: the GGUF architecture {name!r} is not supported; supported: {', '.join(FAMILIES)}",
            hint="give the original Hugging Face folder or id instead of the GGUF file",
        )
    return FAMILIES[name]


def gguf_name(name: str, family: Family) -> str | None:
    """What GGUF calls a tensor of the model; None where it has no place for it."""
    for theirs, ours in _TOP.items():
        if name == ours:
            return theirs
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    parts = {ours: theirs for theirs, ours in family.parts.items()}
    return f"blk.{match[1]}.{parts[match[2]]}" if match and match[2] in parts else None


def permuted(name: str, family: Family) -> bool:
    """The rows of this tensor, by its name in GGUF, are stored in llama's rotary order."""
    return family.permuted and name.endswith(("attn_q.weight", "attn_k.weight"))


def tensor_names(file: GgufFile, family: Family) -> dict[str, str]:
    """Names in the file -> names in the model, for every stored weight.

    Raises:
        ModelError: a tensor is missing, or there is one that the family doesn't know.
    """
    layers = file.value(f"{file.value('general.architecture')}.block_count")
    known = dict(_TOP)
    for name in file.tensors:
        match = re.fullmatch(r"blk\.(0|[1-9]\d{0,5})\.(.+)", name)
        if match and int(match[1]) < layers and match[2] in family.parts:
            known[name] = f"model.layers.{match[1]}.{family.parts[match[2]]}"
        elif name not in known and name not in _ROPE_TENSORS:
            raise ModelError(
                f"{file.path}: tensor {name!r} has no place in a {family.model_type} of {layers} blocks",
                hint="this variant is not supported as GGUF; give the original folder or Hub id instead",
            )
    missing = _first_missing(file, family, int(layers))
    if missing:
        raise ModelError(f"{file.path}: the tensor {missing!r} is missing", hint="fetch the GGUF file again")
    return {name: known[name] for name in file.tensors if name in known}


def _first_missing(file: GgufFile, family: Family, layers: int) -> str | None:
    for name in _TOP:
        if name not in file.tensors and name not in _OPTIONAL:
            return name
    for layer in range(layers):  # stops at the first gap, so an absurd count costs nothing
        for part in family.parts:
            if f"blk.{layer}.{part}" not in file.tensors:
                return f"blk.{layer}.{part}"
    return None
