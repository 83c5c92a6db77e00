"""Relative error of the ggml block types by encoder: ours, and ggml's own with and without an importance matrix.

    python benchmarks/encoders.py --lib .bench/peers-venv/lib/python3.11/site-packages/llama_cpp/lib

The error is sum h (w - q)^2 / sum h w^2. On Gaussian weights h is 1 and ggml gets a flat importance matrix; on weights
of the demo model h is 1 in one column, and in the other the mean square of each input channel, on calibration text;
ggml gets the same numbers as its importance matrix.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird.checkpoint import open_checkpoint
from tailorbird.files import write_json
from tailorbird.formats.ggml import TYPES, BlockType, decode, encode

ROOT = Path(__file__).parent
ROWS = 256
LAYERS = ("self_attn.o_proj", "mlp.down_proj")  # rows of 1024 and 2048: every type fits


def ggml_encoder(folder: Path) -> Any:
    """A function (weight, type, importance or None) -> blocks, by ggml's own code in `folder`."""
    lib = ctypes.CDLL(str(folder / "libggml-base.so"))
    floats = ctypes.POINTER(ctypes.c_float)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]

    def quantise(weight: Tensor, kind: BlockType, importance: Tensor | None) -> Tensor:
        rows, cols = weight.shape
        blocks = torch.empty(rows, cols // kind.weights * kind.nbytes, dtype=torch.uint8)
        source = ctypes.cast(weight.data_ptr(), floats)
        matrix = None if importance is None else ctypes.cast(importance.data_ptr(), floats)
        lib.ggml_quantize_chunk(kind.id, source, blocks.data_ptr(), 0, rows, cols, matrix)
        return blocks

    return quantise


def errors(weight: Tensor, kind: BlockType, blocks: Tensor, h: Tensor) -> float:
    lost = (decode(blocks, kind) - weight).square() @ h
    return (lost.double().sum() / (weight.square() @ h).double().sum()).item()


def compare(weight: Tensor, h: Tensor, ggml: Any) -> dict[str, dict[str, float]]:
    """Errors by type and encoder; `ggml` is without, `ggml_imatrix` with an importance matrix of h."""
    table = {}
    for name, kind in TYPES.items():
        began = time.monotonic()
        ours = encode(weight, kind, h)
        table[name] = {
            "bits": kind.bits,
            "ours": errors(weight, kind, ours, h),
            "ggml": errors(weight, kind, ggml(weight, kind, None), h),
            "ggml_imatrix": errors(weight, kind, ggml(weight, kind, h), h),
            "seconds": round(time.monotonic() - began, 2),
        }
    return table


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}\n{'type':8}{'bits':>8}{'ours':>12}{'ggml':>12}{'imatrix':>12}")
    for name, row in table.items():
        numbers = "".join(f"{row[key]:12.6f}" for key in ("ours", "ggml", "ggml_imatrix"))
        print(f"{name:8}{row['bits']:8.4f}{numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", type=Path, required=True, help="folder of libggml-base.so")
    parser.add_argument("--importance", type=Path, help="importance matrix, .npz by GGUF name; else flat")
    parser.add_argument("--model", default="demo:gemma-270m")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "encoders.json")
    options = parser.parse_args()
    ggml = ggml_encoder(options.lib)
    torch.manual_seed(0)
    tables = {"Gaussian": compare(torch.randn(ROWS, 2048), torch.ones(2048), ggml)}
    show("Gaussian", tables["Gaussian"])
    checkpoint = open_checkpoint(options.model)
    for layer in LAYERS:
        name = f"model.layers.8.{layer}"
        weight = checkpoint.read_rows(f"{name}.weight", 0, ROWS).float().contiguous()
        tables[name] = compare(weight, torch.ones(weight.shape[1]), ggml)
        show(name, tables[name])
    write_json(options.out, {"rows": ROWS, "model": options.model, "errors": tables})


if __name__ == "__main__":
    main()
