"""Milliseconds of the Triton kernels by bits and shape on a GPU, beside torch's bfloat16 linear (cuBLAS).

    python benchmarks/gpu_kernels.py

Every product is checked against the reference before it is timed. Times are medians with the caches of the GPU
cleared between runs; bytes a second are those of the packed weight. Rows go to benchmarks/results/gpu_kernels.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from kernels import random_planes  # beside this file
from tailorbird.errors import TailorbirdError, require
from tailorbird.files import write_json
from tailorbird.formats import BitPlanes
from tailorbird.kernels.triton_matrix import TritonMatrix

RESULTS = Path(__file__).parent / "results" / "gpu_kernels.json"
SHAPES = "4096x4096,14336x4096"
HEADER = "       shape bits  rows      MB        ms    GB/s   bf16 ms  faster"
TOLERANCE = 1e-2  # of the norm of the output: what rounding weights and outputs to bfloat16 may cost


def main() -> None:
    """Measure every shape, bit-width and number of rows; print a table, write the rows."""
    options = _options()
    if not torch.cuda.is_available():
        raise TailorbirdError("there is no GPU to measure", hint="run this where torch.cuda.is_available() is true")
    if require("triton", extra="triton").knobs.runtime.interpret:
        raise TailorbirdError("Triton's interpreter is on: its times say nothing", hint="unset TRITON_INTERPRET")
    torch.manual_seed(0)
    shapes = [(int(r), int(c)) for r, c in (shape.split("x") for shape in options.shapes.split(","))]
    print(f"{torch.cuda.get_device_name()}\n{HEADER}")
    table = [row for rows, cols in shapes for n in options.rows for row in _products(rows, cols, n, options)]
    document = {
        "command": " ".join(sys.argv), "date": date.today().isoformat(), "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__, "triton": require("triton", extra="triton").__version__,
        "cuda": torch.version.cuda, "group_size": options.group_size, "table": table,
    }  # fmt: skip
    write_json(options.out, document)


def _products(rows: int, cols: int, n: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    x = torch.randn(n, cols, device="cuda", dtype=torch.bfloat16)
    dense = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    halves, found = _median(lambda: torch.nn.functional.linear(x, dense)), []
    for bits in options.bits:
        planes = random_planes(rows, cols, bits, options.group_size).to(torch.device("cuda"))
        matrix = TritonMatrix.from_arrays(rows, planes.spec.bits, options.group_size, planes.arrays)
        error = _error(matrix.matmul(x), planes, x)
        milliseconds = _median(lambda matrix=matrix: matrix.matmul(x))
        speed = matrix.nbytes / milliseconds * 1e3
        found.append(
            {"shape": [rows, cols], "bits": bits, "rows": n, "bytes": matrix.nbytes, "milliseconds": milliseconds,
             "bytes_per_second": speed, "bf16_milliseconds": halves, "error": error}
        )  # fmt: skip
        print(
            f"{f'{rows}x{cols}':>12} {bits:4} {n:5} {matrix.nbytes / 1e6:7.1f} {milliseconds:9.4f} "
            f"{speed / 1e9:7.0f} {halves:9.4f} {halves / milliseconds:6.2f}x"
        )
    return found


def _error(found: torch.Tensor, planes: BitPlanes, x: torch.Tensor) -> float:
    """Error relative to the norm of the reference's output.

    Raises:
        TailorbirdError: more than `TOLERANCE`: a kernel that computes something else is not worth timing.
    """
    exact = planes.matmul(x.float())
    error = float((found.float() - exact).norm() / exact.norm())
    if not error < TOLERANCE:
        raise TailorbirdError(
            f"{planes.spec.bits[0]} bits, {len(x)} rows: the kernel's error is {error:.3g}",
            hint="TRITON_INTERPRET=0 pytest tests/kernels/test_triton.py",
        )
    return error


def _median(run: Callable[[], Any]) -> float:
    """Milliseconds of a run."""
    testing = require("triton.testing", extra="triton")
    return float(testing.do_bench(run, return_mode="median"))


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="ROWSxCOLUMNS, with commas")
    parser.add_argument("--bits", type=numbers, default=list(range(1, 9)))
    parser.add_argument("--rows", type=numbers, default=[1, 16, 512], help="rows of activations")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
