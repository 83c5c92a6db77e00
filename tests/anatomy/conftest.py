"""Tiny random models of every family, in folders as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.utils import logging

_SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_GATED: dict[str, Any] = {**_SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_GEMMA: dict[str, Any] = {**_GATED, "sliding_window": 4, "query_pre_attn_scalar": 8}
_OPT: dict[str, Any] = {**_SIZES, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_GATED, "pad_token_id": 80},
    "llama-tied": {"model_type": "llama", **_GATED, "tie_word_embeddings": True, "attention_bias": True},
    "mistral": {"model_type": "mistral", **_GATED, "sliding_window": 4},
    "qwen2": {"model_type": "qwen2", **_GATED},
    "qwen3": {"model_type": "qwen3", **_GATED, "tie_word_embeddings": True},
    "phi3": {"model_type": "phi3", **_GATED, "pad_token_id": 2},
    "gemma": {"model_type": "gemma", **_GATED},
    "gemma2": {"model_type": "gemma2", **_GEMMA, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0},
    "gemma3": {
        "model_type": "gemma3_text",
        **_GEMMA,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    # Heads of 72 numbers, and a window that is more than one block of keys.
    "llama-wide": {"model_type": "llama", **_GATED, "head_dim": 72},
    "gemma3-wide": {
        "model_type": "gemma3_text",
        **_GEMMA,
        "head_dim": 72,
        "query_pre_attn_scalar": 72,
        "sliding_window": 20,
    },
    "opt": _OPT,
    "opt-unnormed": {**_OPT, "_remove_final_layer_norm": True},
    "opt-untied": {**_OPT, "tie_word_embeddings": False},
    # The 350M form: a narrower embedding behind two projections, norms after the layers.
    "opt-projected": {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
}
MakeModel = Callable[..., tuple[Path, nn.Module]]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A function that gives the folder of a family's tiny model, and the model itself as transformers has it."""
    made: dict[str, tuple[Path, nn.Module]] = {}
    logging.disable_progress_bar()

    def make(name: str, **saving: Any) -> tuple[Path, nn.Module]:
        key = f"{name} {saving}"
        if key not in made:
            torch.manual_seed(7)
            config = transformers.AutoConfig.for_model(**CONFIGS[name])
            module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    # Norms and biases too, which start as ones and zeros and would hide a mix-up.
                    parameter.add_(0.1 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(name)
            module.save_pretrained(folder, **saving)
            made[key] = folder, module
        return made[key]

    return make
