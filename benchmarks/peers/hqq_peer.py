"""HQQ through its own library: every Linear of the blocks quantised without data, the rest left in 16 bits.

Half-Quadratic Quantization (Badri and Shaji, 2023) as released has no embedding layer, so the tied embedding,
most of this model, stays in 16 bits. The bytes are those of the safetensors file that its state dictionary
makes. Scales and zero points are float16, the library's default; the arithmetic of the evaluation is float32.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import model as demo
import protocol
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import save_file


@dataclass(frozen=True)
class Recipe:
    """Bits and group size; `bits` 16 is the original in 16-bit bytes, nothing quantised."""

    bits: int
    group: int = 64

    @property
    def peer(self) -> str:
        return "transformers" if self.bits == 16 else "hqq"

    @property
    def version(self) -> str:
        return f"{self.peer} {version(self.peer)}"

    @property
    def name(self) -> str:
        return "original" if self.bits == 16 else f"HQQ {self.bits} bits group {self.group}"


ORIGINAL = Recipe(16)
RECIPES = [Recipe(4), Recipe(3), Recipe(2), Recipe(2, 16)]


def _quantise(model: Any, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Replace the weights of the blocks by what HQQ keeps of them; returns what would be stored, by name."""
    config = BaseQuantizeConfig(nbits=recipe.bits, group_size=recipe.group, axis=1)
    stored: dict[str, torch.Tensor] = {}
    for name, module in model.model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        layer = HQQLinear(module, config, compute_dtype=torch.float16, device="cpu", del_orig=False)
        stored |= {f"{name}.{key}": value.contiguous() for key, value in layer.state_dict().items()}
        module.weight.data = layer.dequantize().float()
    return stored


def _others(model: Any, skip: set[str]) -> dict[str, torch.Tensor]:
    """The parameters that are left in 16 bits, by name; the tied embedding once."""
    every = model.model.named_parameters()
    return {name: tensor.detach().half() for name, tensor in every if name.rpartition(".")[0] not in skip}


@torch.inference_mode()
def perplexity(model: Any, cut: protocol.Ids) -> float:
    """Perplexity of a transformers model, float32."""
    head = model.get_output_embeddings().weight

    def score(window: protocol.Ids) -> float:
        ids = torch.from_numpy(window).long()
        hidden = model.model(ids[None, :-1]).last_hidden_state[0]
        parts = [slice(start, start + 128) for start in range(0, len(hidden), 128)]
        return sum(protocol.nll(hidden[part] @ head.T, ids[1:][part]) for part in parts)

    return protocol.perplexity(score, cut)


def row(folder: Path, recipe: Recipe, weights: int, cut: protocol.Ids) -> protocol.Row:
    """Quantise, write the file to count its bytes, score."""
    model = demo.load(folder)
    began = time.monotonic()
    stored = {} if recipe.bits == 16 else _quantise(model, recipe)
    seconds = time.monotonic() - began
    rest = _others(model, {name.rpartition(".")[0] for name in stored})
    path = folder.parent / f"hqq-{os.getpid()}.safetensors"
    save_file(stored | rest, path)
    weight_bytes = path.stat().st_size
    path.unlink()
    size = weight_bytes + sum((folder / name).stat().st_size for name in ("config.json", "tokenizer.json"))
    left = sum(tensor.numel() for tensor in rest.values())
    began = time.monotonic()
    value = perplexity(model, cut)
    what = "nothing quantised" if recipe.bits == 16 else "embedding F16, blocks quantised without data"
    extra = f"bytes include a tokenizer.json of {(size - weight_bytes) / 1e6:.0f} MB"
    return protocol.Row(
        peer=recipe.peer,
        version=recipe.version,
        type=recipe.name,
        bytes=size,
        weight_bytes=weight_bytes,
        bits=size * 8 / weights,
        weight_bits=weight_bytes * 8 / weights,
        perplexity=value,
        tokens=cut.shape[0] * (cut.shape[1] - 1),
        seconds=round(seconds, 1),
        evaluation_seconds=round(time.monotonic() - began, 1),
        note=f"{what}; float32 arithmetic; {extra}",
        types={"F16": left} | ({} if recipe.bits == 16 else {recipe.name: weights - left}),
    )
