"""Conversion of GGUF files: every family computes what the model it was written from computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from tailorbird.checkpoint import gguf as converter
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError

WriteGguf = Callable[..., Path]

SIZES = {
    **{"vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6},
    **{"pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
}
LLAMA3_ROPE = {
    **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
SHORT, LONG = [1.0, 1.25, 1.5], [2.0, 4.0, 8.0]
PHI3_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "short_factor": SHORT},
    **{"long_factor": LONG, "original_max_position_embeddings": 16},
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 32}


def theta(base: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}


# name: (architecture in GGUF, model type, config beside the sizes, metadata beside the sizes)
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "llama", theta(500.0), {"rope.freq_base": 500.0}),
    "llama3": ("llama", "llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}, {}),
    "mistral": ("llama", "llama", {"head_dim": 16, **theta(1e6)}, {"rope.freq_base": 1e6}),
    "qwen2": ("qwen2", "qwen2", theta(1e6), {"rope.freq_base": 1e6}),
    "qwen2-yarn": (
        "qwen2",
        "qwen2",
        {"rope_parameters": YARN, "tie_word_embeddings": True},
        {
            **{"rope.freq_base": 500.0, "rope.scaling.type": "yarn", "rope.scaling.factor": 2.0},
            "rope.scaling.original_context_length": 32,
        },
    ),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 16, **theta(500.0)}, {"rope.freq_base": 500.0}),
    "phi3": (
        "phi3",
        "phi3",
        {"sliding_window": 8, "original_max_position_embeddings": 64, **theta(10000.0)},
        {"rope.dimension_count": 8, "attention.sliding_window": 8},
    ),
    "phi3-long": (
        "phi3",
        "phi3",
        {"rope_parameters": PHI3_ROPE, "original_max_position_embeddings": 16, "tie_word_embeddings": True},
        {"rope.dimension_count": 6, "rope.scaling.original_context_length": 16},
    ),
    "gemma": ("gemma", "gemma", {"head_dim": 16, **theta(10000.0)}, {}),
    "gemma2": (
        "gemma2",
        "gemma2",
        {
            **{"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, **theta(10000.0)},
            **{"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        },
        {"attention.sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {
            **{"num_hidden_layers": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
            "rope_parameters": GEMMA3_ROPE,
        },
        {
            **{"attention.sliding_window": 8, "rope.freq_base": 5000.0, "rope.freq_base_swa": 700.0},
            **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "block_count": 7},
        },
    ),
}


def original(case: str) -> Any:
    """A random model whose weights float16 holds exactly, norms included."""
    _, model_type, extra, _ = CASES[case]
    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **{**SIZES, **json.loads(json.dumps(extra))})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            shift = 0.0 if parameter.ndim == 2 or model_type.startswith("gemma") else 1.0
            values = torch.randn_like(parameter) * (0.5 if parameter.ndim == 2 else 0.25) + shift
            parameter.copy_((values * 256).round() / 256)
    return model


BLOCK_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def to_gguf(model: Any, arch: str) -> dict[str, np.ndarray[Any, Any]]:
    """The rule of llama.cpp's converters, forwards: names, re-ordered rows, norms plus one."""
    tensors = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy().copy()
        if name in TOP_NAMES:
            target = TOP_NAMES[name]
        else:
            _, _, layer, part, kind = name.replace("_attn.", "_attn#").replace("mlp.", "mlp#").split(".")
            part = part.replace("#", ".")
            four_norms = arch in ("gemma2", "gemma3")
            after = "post_attention_norm" if four_norms else "ffn_norm"
            target = f"blk.{layer}.{after if part == 'post_attention_layernorm' else BLOCK_NAMES[part]}.{kind}"
        if arch == "llama" and (".attn_q." in target or ".attn_k." in target):
            heads = SIZES["num_attention_heads" if ".attn_q." in target else "num_key_value_heads"]
            half = values.shape[0] // heads // 2
            values = values.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(values.shape)
        if arch.startswith("gemma") and target.endswith("norm.weight"):
            values += 1
        tensors[target] = values if values.ndim == 1 else values.astype(np.float16)
    return tensors


def metadata(case: str, model: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "context_length": 64,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
        **({"attention.key_length": 16} if "head_dim" in CASES[case][2] else {}),
        **CASES[case][3],
    }
    return {f"ARCH.{key}": value for key, value in values.items()}


def rope_tensors(case: str) -> dict[str, Any]:
    if case == "phi3-long":
        return {
            "rope_factors_short.weight": np.array(SHORT, np.float32),
            "rope_factors_long.weight": np.array(LONG, np.float32),
        }
    if case != "llama3":
        return {}
    factors = []  # as llama.cpp's converter computes them
    for pair in range(4):
        wavelength = 2 * math.pi * 10000.0 ** (2 * pair / 8)
        smooth = (8192 / wavelength - 1) / 3
        factors.append(1.0 if smooth > 1 else 8.0 if smooth < 0 else 1 / ((1 - smooth) / 8 + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


@pytest.mark.parametrize("case", CASES)
def test_every_family_computes_the_same(case: str, write_gguf: WriteGguf, tmp_path: Path) -> None:
    arch, model_type, _, _ = CASES[case]
    model = original(case)
    path = write_gguf(arch, metadata(case, model), {**to_gguf(model, arch), **rope_tensors(case)})
    checkpoint = open_checkpoint(path, cache=tmp_path / "cache")
    assert checkpoint.config["model_type"] == model_type and checkpoint.tokenizer_file is None
    weights = dict(model.named_parameters())
    assert set(checkpoint.tensors) == set(weights)
    for name, values in weights.items():
        stored = checkpoint.read(name)
        assert stored.dtype == (torch.float16 if values.ndim == 2 else torch.float32)
        assert torch.equal(stored.float(), values), name
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.folder, attn_implementation="eager").eval()
    assert loaded.dtype == torch.float32 and type(loaded) is type(model)
    tokens = torch.randint(0, 48, (1, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(loaded(tokens).logits, model(tokens).logits, atol=1e-5)


def test_quantized_rows_in_pieces_and_shards(
    write_gguf: WriteGguf,
    llama_metadata: Any,
    llama_tensors: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantized = {name: (array, "Q8_0") if array.ndim == 2 else array for name, array in llama_tensors.items()}
    path = write_gguf("llama", llama_metadata, quantized)
    converted = {}
    for label, piece, limit in (("whole", 2**22, 2**30), ("pieces", 64, 4096)):
        monkeypatch.setattr(converter, "_PIECE", piece)
        folder = tmp_path / label
        folder.mkdir()
        converter.convert(path, folder, shard_bytes=limit)
        converted[label] = open_checkpoint(folder)
    whole, pieces = converted["whole"], converted["pieces"]
    assert (whole.folder / "model.safetensors").is_file()
    shards = {info.file for info in pieces.tensors.values()}
    assert len(shards) > 3 and all(file.stat().st_size < 4096 + 4000 for file in shards)
    for name in whole.tensors:
        assert torch.equal(whole.read(name), pieces.read(name)), name
    close = torch.from_numpy(llama_tensors["blk.0.ffn_up.weight"])
    assert torch.allclose(whole.read("model.layers.0.mlp.up_proj.weight").float(), close, atol=0.02)
    transformers.AutoModelForCausalLM.from_pretrained(pieces.folder)


def test_weights_beyond_float16_stay_float32(
    write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path
) -> None:
    llama_tensors["blk.0.ffn_up.weight"][3, 4] = 1e5
    llama_tensors["blk.0.ffn_gate.weight"][3, 4] = np.nan
    checkpoint = open_checkpoint(write_gguf("llama", llama_metadata, llama_tensors), cache=tmp_path / "cache")
    up = checkpoint.read("model.layers.0.mlp.up_proj.weight")
    assert up.dtype == torch.float32 and up[3, 4] == 1e5
    assert checkpoint.read("model.layers.0.mlp.gate_proj.weight")[3, 4].isnan()
    assert checkpoint.read("model.layers.0.mlp.down_proj.weight").dtype == torch.float16


def test_converts_once(
    write_gguf: WriteGguf,
    llama_metadata: Any,
    llama_tensors: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_gguf("llama", llama_metadata, llama_tensors)
    first = open_checkpoint(path, cache=tmp_path / "cache")
    again = open_checkpoint(path.rename(tmp_path / "renamed.gguf"), cache=tmp_path / "cache")
    assert again.folder == first.folder and again.digest() == first.digest()
    assert again.source == str(tmp_path / "renamed.gguf")
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "elsewhere"))
    other = open_checkpoint(tmp_path / "renamed.gguf")
    assert other.folder.parent == tmp_path / "elsewhere" and other.digest() == first.digest()
    (first.folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="truncated") as caught:
        open_checkpoint(tmp_path / "renamed.gguf", cache=tmp_path / "cache")
    assert str(first.folder) in caught.value.hint


def refused(path: Path, cache: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(path, cache=cache)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missing": "blk.0.ffn_up.weight"}, ("'blk.0.ffn_up.weight' is missing",)),
        ({"missing": "token_embd.weight"}, ("'token_embd.weight' is missing",)),
        ({"extra": "blk.0.ssm_a.weight"}, ("blk.0.ssm_a.weight", "no place")),
        ({"extra": "blk.7.ffn_up.weight"}, ("blk.7.ffn_up.weight", "no place")),
        ({"arch": "mamba"}, ("'mamba' is not supported",)),
        ({"ARCH.attention.head_count": 3}, ("blk.0.attn_q.weight", "3 heads")),
        ({"ARCH.embedding_length": 16}, ("token_embd.weight", "embedding_length is 16")),
        ({"ARCH.feed_forward_length": [64, 32]}, ("feed_forward_length", "[64, 32]")),
        ({"ARCH.context_length": 0}, ("context_length",)),
        ({"ARCH.block_count": 2**31}, ("'blk.1.attn_q.weight' is missing",)),
        ({"ARCH.attention.layer_norm_rms_epsilon": "x"}, ("wrong kind",)),
        ({"ARCH.rope.scaling.type": "ntk", "ARCH.rope.scaling.factor": 2.0}, ("'ntk' is not supported",)),
        ({"split.count": 3}, ("one of 3 parts",)),
        ({"tokenizer.ggml.model": "bert"}, ("'bert' is not supported",)),
    ],
)
def test_unsupported_files(
    change: dict[str, Any],
    words: tuple[str, ...],
    write_gguf: WriteGguf,
    llama_metadata: Any,
    llama_tensors: Any,
    tmp_path: Path,
) -> None:
    llama_tensors.pop(change.pop("missing", None), None)
    if "extra" in change:
        llama_tensors[change.pop("extra")] = np.zeros((4, 4), np.float32)
    path = write_gguf(change.pop("arch", "llama"), {**llama_metadata, **change}, llama_tensors)
    refused(path, tmp_path / "cache", *words)


def test_unsupported_type(write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path) -> None:
    llama_tensors["blk.0.ffn_up.weight"] = (np.ones((64, 256)), "MXFP4")
    path = write_gguf("llama", llama_metadata, llama_tensors)
    refused(path, tmp_path / "cache", "MXFP4 is not supported", "blk.0.ffn_up.weight")


def test_unknown_rope_factors(write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path) -> None:
    llama_tensors["rope_freqs.weight"] = np.array([1, 3, 2, 7], np.float32)
    refused(write_gguf("llama", llama_metadata, llama_tensors), tmp_path / "cache", "rope_freqs.weight")


def test_damaged_files(write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path) -> None:
    llama_metadata["ARCH.note"] = [1, 2, 3]
    good = write_gguf("llama", llama_metadata, llama_tensors).read_bytes()
    path, cache = tmp_path / "bad.gguf", tmp_path / "cache"
    huge = (2**60).to_bytes(8, "little")
    at = good.index(b"llama.note") + len("llama.note") + 8
    cases = [b"", b"GGUF", b"no" * 50, good[:100], good[:-1], good[: len(good) // 2]]
    cases += [good[:8] + huge + good[16:], good[:16] + huge + good[24:], good[:at] + huge + good[at + 8 :]]
    for data in cases:
        path.write_bytes(data)
        refused(path, cache, str(path))


def test_mutated_headers_never_crash(
    write_gguf: WriteGguf, llama_metadata: Any, llama_tensors: Any, tmp_path: Path
) -> None:
    good = write_gguf("llama", llama_metadata, llama_tensors).read_bytes()
    rng, path = np.random.default_rng(5), tmp_path / "bad.gguf"
    for trial in range(150):
        data = bytearray(good)
        for at in rng.integers(0, 1400, 1 + trial % 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            open_checkpoint(path, cache=tmp_path / "cache")
        except ModelError as error:
            assert error.hint
