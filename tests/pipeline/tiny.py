"""Tiny random models for the tests of whole jobs; child processes import this file too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

TEXT = "The tailorbird stitches leaves to fit its nest. It sews with spider silk and with cotton from the fields. " * 9
WORDS = 320

_COMMON: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GATED: dict[str, Any] = {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True, **_COMMON, **_GATED},
    "untied": {"model_type": "llama", "tie_word_embeddings": False, "attention_bias": True, **_COMMON, **_GATED},
    "gemma3": {"model_type": "gemma3_text", "tie_word_embeddings": True, "sliding_window": 8, **_COMMON, **_GATED},
    "gemma": {"model_type": "gemma", "tie_word_embeddings": True, **_COMMON, **_GATED},
    "gemma2": {
        **{"model_type": "gemma2", "tie_word_embeddings": True, "sliding_window": 8, "query_pre_attn_scalar": 16},
        **_COMMON,
        **_GATED,
    },
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False, **_COMMON, **_GATED},
    "opt": {
        "model_type": "opt",
        "tie_word_embeddings": True,
        "ffn_dim": 128,
        "word_embed_proj_dim": 64,
        **_COMMON,
        "num_hidden_layers": 3,
        "max_position_embeddings": 34,
    },
}


def make_tokenizer(text: str = TEXT) -> Tokenizer:
    """A byte-level tokenizer with the words of a text, that puts <s> before what it reads."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def make_model(name: str, folder: Path, **changes: Any) -> nn.Module:
    """Write a family's tiny random model into a folder, as transformers does; returns it as transformers has it."""
    return write_model(CONFIGS[name] | changes, make_tokenizer(), folder)


def write_model(settings: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> nn.Module:
    """The same from a configuration and a tokenizer."""
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(**settings)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for tensor in module.parameters():
            # Trained models come in bfloat16: what is stored as it is takes two bytes a number.
            tensor.copy_((tensor + torch.randn_like(tensor) * 0.1).bfloat16())
    folder.mkdir(parents=True, exist_ok=True)
    module.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return module


def make_text(path: Path, seed: int = 0) -> Path:
    """Calibration text: sentences of the tokenizer's own words in a seeded order."""
    words = TEXT.split()[:19]
    order = torch.randint(len(words), (4000,), generator=torch.Generator().manual_seed(seed)).tolist()
    path.write_text(" ".join(words[i] for i in order))
    return path


class Mlp(nn.Module):
    """Linear layers that are no language model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 96)
        self.second = nn.Linear(96, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def make_mlp() -> Mlp:
    """The same one each time."""
    torch.manual_seed(3)
    return Mlp()


# What every job of these tests is calibrated with, so that it takes a moment only.
SMALL: dict[str, Any] = {"samples": 8, "length": 32}
