"""Tiny random models in folders, one of each family, and a tokenizer trained on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from torch import nn

_tiny = run_path(str(Path(__file__).parents[1] / "pipeline" / "tiny.py"))
TEXT = "The tailorbird stitches leaves to fit its nest. It sews with spider silk, é, 日本 and 🪡 too. " * 3

_SIZES: dict[str, Any] = {
    "vocab_size": _tiny["WORDS"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GATED: dict[str, Any] = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True, **_SIZES, **_GATED},
    "llama-untied": {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True, **_SIZES, **_GATED},
    "gemma2": {
        "model_type": "gemma2",
        "tie_word_embeddings": True,
        "final_logit_softcapping": 0.5,
        "sliding_window": 8,
        **_SIZES,
        **_GATED,
    },
    "gemma3": {"model_type": "gemma3_text", "tie_word_embeddings": True, "sliding_window": 8, **_SIZES, **_GATED},
    "opt": {
        "model_type": "opt",
        "tie_word_embeddings": True,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        **_SIZES,
    },
}
MakeModel = Callable[[str], tuple[Path, nn.Module]]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A function that gives the folder of a family's tiny random model, and the model itself as transformers has it."""
    made: dict[str, tuple[Path, nn.Module]] = {}

    def make(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            module = _tiny["write_model"](CONFIGS[name], _tiny["make_tokenizer"](TEXT), folder)
            made[name] = folder, module
        return made[name]

    return make
