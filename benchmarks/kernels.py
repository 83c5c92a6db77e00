"""Milliseconds of the native kernels by bits and shape, beside torch's bfloat16 linear.

    python benchmarks/kernels.py --threads 2
    valgrind --tool=callgrind python benchmarks/kernels.py --once --bits 4 --shapes 2048x640 --rows 1

Packed bytes a second stand beside the read bandwidth of the machine, measured before and after in the same run. Rows
go to benchmarks/results/kernels.json. Run it on an otherwise idle machine; the load is written down with the figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tailorbird.errors import TailorbirdError
from tailorbird.files import write_json
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix

RESULTS = Path(__file__).parent / "results" / "kernels.json"
SHAPES = "4096x4096,2048x640,262144x640"
HEADER = "       shape bits  rows      MB        ms    GB/s % of read   bf16 ms  faster"


def main() -> None:
    """Measure every shape, bit-width and number of rows; print a table, write the rows."""
    options = _options()
    extension = native.extension()
    if extension is None:
        raise TailorbirdError("there are no native kernels to measure", hint="install with a C++20 compiler")
    native.set_threads(options.threads)
    torch.set_num_threads(extension.threads())
    shapes = [(int(r), int(c)) for r, c in (shape.split("x") for shape in options.shapes.split(","))]
    if options.once:
        for rows, cols in shapes:
            for bits in options.bits:
                for n in options.rows:
                    _matrix(rows, cols, bits, options.group_size).matmul(torch.randn(n, cols))
        return
    before = native.read_bandwidth()
    print(f"{extension.variant()}, {extension.threads()} threads, {before / 1e9:.1f} GB/s read\n{HEADER}")
    table = [row for shape in shapes for row in _shape(*shape, options, before)]
    document = {
        "command": " ".join(sys.argv), "date": date.today().isoformat(), "variant": extension.variant(),
        "threads": extension.threads(), "read_bytes_per_second": {"before": before, "after": native.read_bandwidth()},
        "group_size": options.group_size, "table": table, "load": os.getloadavg()[0], "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    write_json(options.out, document)


def _shape(rows: int, cols: int, options: argparse.Namespace, read: float) -> list[dict[str, Any]]:
    inputs = {n: torch.randn(n, cols, generator=torch.Generator().manual_seed(0)) for n in options.rows}
    dense = torch.randn(rows, cols).bfloat16()
    halves = {
        n: _best(lambda x=x: torch.nn.functional.linear(x.bfloat16(), dense), options.seconds)
        for n, x in inputs.items()
    }
    found = []
    for bits in options.bits:
        matrix = _matrix(rows, cols, bits, options.group_size)
        for n, x in inputs.items():
            seconds = _best(lambda x=x, matrix=matrix: matrix.matmul(x), options.seconds)
            speed = matrix.nbytes / seconds
            found.append(
                {"shape": [rows, cols], "bits": bits, "rows": n, "bytes": matrix.nbytes, "milliseconds": seconds * 1e3,
                 "bytes_per_second": speed, "of_read": speed / read, "bf16_milliseconds": halves[n] * 1e3}
            )  # fmt: skip
            print(
                f"{f'{rows}x{cols}':>12} {bits:4} {n:5} {matrix.nbytes / 1e6:7.1f} {seconds * 1e3:9.3f} "
                f"{speed / 1e9:7.1f} {100 * speed / read:9.0f} {halves[n] * 1e3:9.3f} {halves[n] / seconds:6.1f}x"
            )
    return found


def _matrix(rows: int, cols: int, bits: int, group_size: int) -> PackedMatrix:
    planes = random_planes(rows, cols, bits, group_size)
    return PackedMatrix.from_arrays(rows, planes.spec.bits, group_size, planes.arrays)


def random_planes(rows: int, cols: int, bits: int, group_size: int) -> BitPlanes:
    """A weight of random codes; what stands in it does not change how long it takes."""
    spec = PlaneSpec.uniform(bits, cols, group_size)
    arrays = {
        name: torch.randint(0, 128, array.shape, dtype=array.dtype)
        if array.dtype == torch.uint8
        else torch.rand(array.shape).to(array.dtype)
        for name, array in BitPlanes.plan(rows, spec).arrays.items()
    }
    return BitPlanes(rows, spec, arrays)


def _best(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the runs that fit into `seconds`; at least two."""
    run()
    times, end = [], perf_counter() + seconds
    while not times or perf_counter() < end:
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are processors")
    parser.add_argument("--shapes", default=SHAPES, help="ROWSxCOLUMNS, with commas")
    parser.add_argument("--bits", type=numbers, default=list(range(1, 9)))
    parser.add_argument("--rows", type=numbers, default=[1, 512], help="rows of activations")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=0.3, help="for every figure")
    parser.add_argument("--once", action="store_true", help="every product once, nothing measured: for callgrind")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
