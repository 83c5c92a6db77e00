"""The importance matrix of llama.cpp: mean of x_j^2 for each input channel j of each matrix.

llama.cpp's own tool measures it with the model in GGUF form; here the same weights run in transformers
(float32), with a hook on each Linear. As in that tool every window begins with BOS and all its tokens count
alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model as demo
import numpy as np
import protocol
import torch

HEAD = "token_embd.weight"  # tied: as the output head its rows are multiplied by the last hidden state
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Importance = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def gguf_name(module: str) -> str | None:
    """The GGUF name of the weight of a Linear, by its name in transformers; None where it has none."""
    if module == "lm_head":
        return HEAD
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    return f"blk.{found[1]}.{_PARTS[found[2]]}.weight" if found and found[2] in _PARTS else None


def _watch(sums: dict[str, torch.Tensor], name: str) -> Callable[[Any, tuple[torch.Tensor]], None]:
    def add(_: Any, inputs: tuple[torch.Tensor]) -> None:
        square = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0)
        sums[name] = sums.get(name, torch.zeros_like(square)) + square

    return add


@torch.inference_mode()
def measure(folder: Path, cut: protocol.Ids) -> Importance:
    """Run the windows (count x length, token ids) through the model and average the squares of the inputs."""
    model = demo.load(folder)
    sums: dict[str, torch.Tensor] = {}
    for module_name, module in model.named_modules():
        name = gguf_name(module_name)
        if name is not None and name != HEAD:
            module.register_forward_pre_hook(_watch(sums, name))
    head = _watch(sums, HEAD)
    for window in torch.from_numpy(cut).long():
        head(None, (model.model(window[None]).last_hidden_state,))  # the logits themselves are not needed
    return {name: (total / cut.size).float().numpy() for name, total in sums.items()}


def cached(folder: Path, tokenizer: Any, text: Path, count: int, length: int = 512) -> tuple[Importance, str]:
    """Measure on `count` windows of `length` from the articles of `text`, or read an earlier measurement.

    Returns:
        The importance matrix, and a digest that names the text and the windows.
    """
    name = protocol.digest("imatrix", protocol.file_digest(text), count, length)
    path = folder.parent / f"imatrix-{name}.npz"
    if not path.exists():
        ids: list[int] = []
        for article in protocol.read_articles(text):
            if len(ids) >= count * (length - 1):
                break
            ids += tokenizer(article, add_special_tokens=False).input_ids
        cut = protocol.windows(ids, count * (length - 1), tokenizer.bos_token_id, length)
        aside = path.with_suffix(".partial.npz")
        np.savez(aside, **measure(folder, cut))  # type: ignore[arg-type]
        aside.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}, name
