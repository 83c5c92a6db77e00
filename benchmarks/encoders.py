"""Relative error of the ggml block types by encoder: ours, and ggml's own with and without an importance matrix.

    python benchmarks/encoders.py --lib .bench/peers-venv/lib/python3.11/site-packages/llama_cpp/lib

`benchmarks/peers/setup.sh` makes that folder. The error is trace(dW H dW^T) / trace(W H W^T): with H the identity, so
plain squared error, on Gaussian weights and on two layers of the demo model; and on those layers with H the Gram matrix
of their inputs on calibration text. The importance matrix of ggml and of our encoders is the diagonal of H; `sweep` has
all of it. Types that ggml encodes with an importance matrix only get a flat one in the column without. Rows go to
benchmarks/results/encoders.json.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird import data
from tailorbird.checkpoint import open_checkpoint
from tailorbird.files import write_json
from tailorbird.fit.ggml import fit_ggml
from tailorbird.fit.hessian import sweep_factor
from tailorbird.formats.ggml import TYPES, BlockType, decode, encode

RESULTS = Path(__file__).parent / "results" / "encoders.json"
MODEL = "demo:gemma-270m"
BLOCK = 8
LAYERS = ("self_attn.o_proj", "mlp.down_proj")  # rows of 1024 and 2048: every type fits
ROWS = 256
NEED_MATRIX = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
WINDOWS, LENGTH = 8, 512
Encoder = Callable[[Tensor, BlockType, Tensor | None], Tensor]
Table = dict[str, dict[str, float]]


def main() -> None:
    options = _options()
    ggml = ggml_encoder(options.lib)
    torch.manual_seed(0)
    tables = {"Gaussian": compare(torch.randn(ROWS, 2048), None, ggml)}
    show("Gaussian", tables["Gaussian"])
    checkpoint = open_checkpoint(MODEL)
    grams = gram_matrices(checkpoint.folder)
    for layer in LAYERS:
        name = f"model.layers.{BLOCK}.{layer}"
        weight = checkpoint.read_rows(f"{name}.weight", 0, ROWS).float().contiguous()
        for title, gram in ((name, None), (f"{name}, Gram matrix", grams[name])):
            tables[title] = compare(weight, gram, ggml)
            show(title, tables[title])
    document = {
        "command": "python benchmarks/encoders.py", "date": date.today().isoformat(), "model": MODEL, "rows": ROWS,
        "tokens": WINDOWS * LENGTH, "ggml": _installed(options.lib), "torch": metadata.version("torch"),
        "machine": platform.processor() or platform.machine(), "errors": tables,
    }  # fmt: skip
    write_json(options.out, document)


def ggml_encoder(folder: Path) -> Encoder:
    """ggml's own code in `folder`."""
    lib = ctypes.CDLL(str(folder / "libggml-base.so"))
    floats = ctypes.POINTER(ctypes.c_float)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]

    def quantise(weight: Tensor, kind: BlockType, importance: Tensor | None) -> Tensor:
        rows, cols = weight.shape
        blocks = torch.empty(rows, cols // kind.weights * kind.nbytes, dtype=torch.uint8)
        matrix = None if importance is None else ctypes.cast(importance.data_ptr(), floats)
        source = ctypes.cast(weight.data_ptr(), floats)
        lib.ggml_quantize_chunk(kind.id, source, blocks.data_ptr(), 0, rows, cols, matrix)
        return blocks

    return quantise


@torch.no_grad()
def gram_matrices(folder: Path) -> dict[str, Tensor]:
    """Mean x x^T of the inputs of the layers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "\n".join(data.read_documents(data.CALIBRATION_WIKIPEDIA)[:40])
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids[: WINDOWS * (LENGTH - 1)])
    windows = torch.cat([torch.full((WINDOWS, 1), tokenizer.bos_token_id), ids.view(WINDOWS, -1)], dim=1)
    grams: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def add(_: Any, inputs: tuple[Tensor]) -> None:
            x = inputs[0].flatten(0, -2)
            grams[name] = grams.get(name, 0) + x.T @ x / windows.numel()

        return add

    for layer in LAYERS:
        name = f"model.layers.{BLOCK}.{layer}"
        model.get_submodule(name).register_forward_pre_hook(watch(name))
    for window in windows:
        model.model(window[None])
    return grams


def compare(weight: Tensor, gram: Tensor | None, ggml: Encoder) -> Table:
    """Errors by type and encoder."""
    h = torch.eye(weight.shape[1]) if gram is None else gram
    importance = h.diagonal().contiguous()
    upper = None if gram is None else sweep_factor(gram)[0]
    table = {}
    for name, kind in TYPES.items():
        blocks = {
            "ggml": ggml(weight, kind, torch.ones_like(importance) if name in NEED_MATRIX else None),
            "ggml_imatrix": ggml(weight, kind, importance),
            "ours": encode(weight, kind, importance),
        }
        if upper is not None:
            blocks["ours_sweep"] = fit_ggml(weight, kind, upper)
        table[name] = {"bits": kind.bits} | {who: error(weight, decode(b, kind), h) for who, b in blocks.items()}
    return table


def error(weight: Tensor, got: Tensor, h: Tensor) -> float:
    lost, w, h = (got - weight).double(), weight.double(), h.double()
    return ((lost @ h * lost).sum() / (w @ h * w).sum()).item()


def show(title: str, table: Table) -> None:
    columns = [key for key in next(iter(table.values())) if key != "bits"]
    print(f"\n{title}\n{'type':8}{'bits':>8}" + "".join(f"{key:>14}" for key in columns))
    for name, row in table.items():
        print(f"{name:8}{row['bits']:8.4f}" + "".join(f"{row[key]:14.6f}" for key in columns), flush=True)


def _installed(folder: Path) -> str:
    """Name and version of the package a library belongs to."""
    return next((info.stem for info in folder.parents[1].glob("llama_cpp_python-*.dist-info")), str(folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lib", type=Path, required=True, help="folder of libggml-base.so")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
