"""Settings written as GGUF metadata and read back give the same config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.artifact.targets.gguf_metadata import family_of, metadata, rope_factors, rope_tables
from tailorbird.checkpoint import gguf_config
from tailorbird.checkpoint.gguf_config import common_config
from tailorbird.checkpoint.gguf_reader import GgufFile, GgufTensor
from tailorbird.errors import ModelError

SIZES = {
    **{"vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 16},
    **{"num_key_value_heads": 2, "num_hidden_layers": 7, "max_position_embeddings": 64, "rms_norm_eps": 1e-6},
}
WINDOWS = ["full_attention" if layer == 5 else "sliding_attention" for layer in range(7)]
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
}
DEFAULT = {"rope_type": "default", "rope_theta": 500.0}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_parameters": DEFAULT},
    "llama3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "mistral": {"model_type": "mistral", "rope_parameters": DEFAULT, "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "rope_parameters": YARN, "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3", "rope_parameters": DEFAULT},
    "phi3": {
        **{"model_type": "phi3", "sliding_window": 8, "original_max_position_embeddings": 64},
        "rope_parameters": DEFAULT | {"partial_rotary_factor": 0.75},
    },
    "phi3-long": {
        **{"model_type": "phi3", "original_max_position_embeddings": 16},
        "rope_parameters": {
            **{"rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            **{"long_factor": [2.0, 4.0, 8.0, 16.0], "short_factor": [1.0, 1.25, 1.5, 2.0]},
            "original_max_position_embeddings": 16,
        },
    },
    "gemma": {"model_type": "gemma", "rope_parameters": DEFAULT},
    "gemma2": {
        **{"model_type": "gemma2", "rope_parameters": DEFAULT, "sliding_window": 8, "query_pre_attn_scalar": 16},
        **{"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        "layer_types": [f"{kind}_attention" for kind in ("sliding", "full") * 4][:7],
    },
    "gemma3": {
        **{"model_type": "gemma3_text", "rope_parameters": GEMMA3, "sliding_window": 8, "layer_types": WINDOWS},
        "query_pre_attn_scalar": 16,
    },
}


def file_of(config: dict[str, Any]) -> GgufFile:
    arch, _ = family_of(config)
    tensors = {"token_embd.weight": GgufTensor("token_embd.weight", (48, 32), "F32", 0, 4 * 48 * 32)}
    return GgufFile(Path("made.gguf"), {"general.architecture": arch, **metadata(config)}, tensors)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SIZES | CASES[case]
    file, tables = file_of(config), rope_tables(config)
    monkeypatch.setattr(gguf_config, "_vector", lambda file, name: tables[name].tolist())
    for name, table in tables.items():
        file.tensors[name] = GgufTensor(name, tuple(table.shape), "F32", 0, 4 * len(table))
    back = common_config(file) | family_of(config)[1].config(file)
    for key, value in config.items():
        if key in back and value is not None:
            assert back[key] == value, key
    assert set(config["rope_parameters"]) == set(back["rope_parameters"])


def test_attention_beyond_the_original_length() -> None:
    """As llama.cpp's converter and transformers have it: sqrt(1 + ln(64 / 16) / ln(16))."""
    found = metadata(SIZES | CASES["phi3-long"])
    assert found["phi3.rope.scaling.attn_factor"] == pytest.approx(1.5**0.5)
    assert found["phi3.rope.dimension_count"] == 8 and found["phi3.attention.sliding_window"] == 0


def test_fields_of_older_configs() -> None:
    old = SIZES | {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 5000.0, "sliding_window": 8}
    found = metadata(old | {"rope_scaling": {"type": "linear", "factor": 8.0}})
    assert found["gemma3.rope.freq_base"] == 1e6 and found["gemma3.rope.freq_base_swa"] == 5000.0
    assert found["gemma3.rope.scaling.factor"] == 8.0
    plain = SIZES | {"model_type": "llama", "rope_theta": 300.0}
    assert metadata(plain)["llama.rope.freq_base"] == 300.0 and rope_factors(plain) is None
    windowed = metadata(plain | {"model_type": "mistral", "sliding_window": 32})
    assert windowed["llama.context_length"] == 32  # within the window nothing changes


def test_factors_of_llama3() -> None:
    factors = rope_factors(SIZES | CASES["llama3"] | {"head_dim": 64})
    assert factors is not None and factors.shape == (32,)
    assert factors[0] == 1 and factors[-1] == 8 and torch.equal(factors, factors.sort().values)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "opt"}, "'opt' can't be written as GGUF"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0}}, "rope_parameters"),
        ({"model_type": "llama", "hidden_size": None}, "config.json lacks"),
        ({"layer_types": ["full_attention"] * 7}, "layer_types"),
        ({"query_pre_attn_scalar": 99}, "query_pre_attn_scalar"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (CASES["gemma2"] | {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        (CASES["gemma2"] | {"layer_types": ["full_attention"] * 7}, "layer_types"),
        (CASES["phi3"] | {"rope_parameters": YARN}, "rope_parameters"),
    ],
)
def test_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word) as caught:
        metadata(SIZES | CASES["gemma3"] | changes)
    assert caught.value.hint
