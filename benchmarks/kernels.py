"""Milliseconds of one product by bits and shape, beside torch's bfloat16, onnxruntime and ggml on the same machine.

    make bench-kernels
    python benchmarks/kernels.py --threads 2 --only ggml --types Q4_0,Q4_K
    valgrind --tool=callgrind python benchmarks/kernels.py --once --bits 4 --shapes 2048x640 --rows 1

The weights, the clock and what one row is multiplied with are those of benchmarks/peers/product.py. onnxruntime needs
the extra `onnx`, ggml the environment of benchmarks/peers; what is missing is left out. Figures go to
benchmarks/results/kernels.json, where they replace those of the same library, type and shape (with `--faster` only the
slower ones), and from there into docs/kernels.md. Run it on an otherwise idle machine; the load before each figure is
written down with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernels_page import write_page  # beside this file
from peers import product

from tailorbird.errors import TailorbirdError
from tailorbird.files import read_json, write_json
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.runtime.profile import processor

ROOT = Path(__file__).parent
PEERS = ROOT.parent / ".bench" / "peers-venv" / "bin" / "python"
LIBRARIES = ("tailorbird", "torch", "onnxruntime", "ggml")
Row = dict[str, Any]


def main() -> None:
    """Measure what is asked for, keep the rest, write rows and page."""
    options = _options()
    extension = native.extension()
    if extension is None:
        raise TailorbirdError("there are no native kernels to measure", hint="install with a C++20 compiler")
    native.set_threads(options.threads)
    torch.set_num_threads(options.threads)
    if options.once:
        return _once(options)
    told = {"date": date.today().isoformat(), "read_bytes_per_second": native.read_bandwidth(), "runs": 1}
    found = [row | told for library in options.only for row in _library(library, options)]
    for row in found:
        print(f"{row['library']:>11} {row['type']:14} {row['shape']} {row['rows']:4} {row['milliseconds']:9.4f} ms")
    document = {
        "command": " ".join(sys.argv), "machine": processor(), "variant": extension.variant(),
        "threads": options.threads, "cold_megabytes": options.cold_megabytes, "table": _kept(options, found),
    }  # fmt: skip
    write_json(options.out, document)
    if options.out == options.page:
        write_page(document, ROOT.parent / "docs" / "kernels.md")


def _kept(options: argparse.Namespace, found: list[Row]) -> list[Row]:
    """The new rows, and those of earlier runs that they do not replace."""

    def key(row: Row) -> tuple[Any, ...]:
        return row["library"], row["type"], *row["shape"], row["rows"]

    kept = {key(row): row for row in (read_json(options.out)["table"] if options.out.exists() else [])}
    for row in found:
        earlier = kept.get(key(row)) if options.faster else None
        if earlier:
            row = min(row, earlier, key=lambda row: row["milliseconds"]) | {"runs": earlier["runs"] + 1}
        kept[key(row)] = row
    return sorted(kept.values(), key=lambda row: (row["shape"], row["rows"], row["bits"], *map(str, key(row))))


def _library(name: str, options: argparse.Namespace) -> list[Row]:
    if name == "tailorbird":
        return [row | {"library": name} for shape in product.shapes(options) for row in _ours(*shape, options)]
    if name == "torch":
        rows = [row for shape in product.shapes(options) for row in _halves(*shape, options)]
        return [row | {"library": name, "version": torch.__version__} for row in rows]
    if name == "onnxruntime":
        return _peer(name, [sys.executable] if find_spec("onnxruntime") and find_spec("onnx") else [], options)
    return _peer(name, [str(PEERS)] if PEERS.exists() else [], options)


def _peer(name: str, python: list[str], options: argparse.Namespace) -> list[Row]:
    """What a library's own script measures."""
    if not python:
        print(f"{name} is not there and left out", file=sys.stderr)
        return []
    told = {"threads": options.threads, "shapes": options.shapes, "rows": options.rows, "seconds": options.seconds,
            "cold-megabytes": options.cold_megabytes}  # fmt: skip
    told |= {"types": options.types} if options.types else {}
    script = ROOT / "peers" / f"product_{name.removesuffix('runtime')}.py"
    command = [*python, str(script), *(f"--{key}={value}" for key, value in told.items())]
    rows: list[Row] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return rows


def _ours(rows: int, cols: int, options: argparse.Namespace) -> list[Row]:
    w = product.weight(rows, cols)
    found = []
    for bits in map(int, options.bits.split(",")):
        spec = PlaneSpec.uniform(bits, cols, options.group_size)
        planes = sweep(torch.from_numpy(w), spec, minmax).pack()
        for n in product.rows_of(options):
            x = product.activations(n, cols)
            matrices = [_matrix(planes)]
            matrices += [_matrix(planes) for _ in range(product.copies(matrices[0].nbytes, n, options) - 1)]
            held, out = [matrix.native for matrix in matrices], np.empty((n, rows), np.float32)

            def measure(held: list[Any] = held, x: Any = x, out: Any = out) -> tuple[float, product.Floats]:
                def run() -> None:
                    for one in held:
                        one.matmul(x, out, "int8")  # numpy arrays: half a microsecond a call

                return product.best(run, options.seconds) / len(held), out

            found.append(product.row(f"{bits} bits", bits, w, x, matrices[0].nbytes, measure))
    return found


def _halves(rows: int, cols: int, options: argparse.Namespace) -> list[Row]:
    w, found = product.weight(rows, cols), []
    for n in product.rows_of(options):
        x = product.activations(n, cols)
        copies = product.copies(2 * w.size, n, options)
        held, given = [torch.from_numpy(w).bfloat16() for _ in range(copies)], torch.from_numpy(x).bfloat16()

        def measure(held: list[Any] = held, given: Any = given) -> tuple[float, product.Floats]:
            linear = torch.nn.functional.linear
            seconds = product.best(lambda: [linear(given, one) for one in held], options.seconds) / len(held)
            return seconds, linear(given, held[0]).float().numpy()

        found.append(product.row("bfloat16", 16, w, x, 2 * w.size, measure))
    return found


def _matrix(planes: BitPlanes) -> PackedMatrix:
    return PackedMatrix.from_arrays(planes.rows, planes.spec.bits, planes.spec.group_size, planes.arrays)


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


def _once(options: argparse.Namespace) -> None:
    for rows, cols in product.shapes(options):
        for bits in map(int, options.bits.split(",")):
            for n in product.rows_of(options):
                _matrix(random_planes(rows, cols, bits, options.group_size)).matmul(torch.randn(n, cols))


def _options() -> argparse.Namespace:
    parser = product.parser((__doc__ or "").split("\n")[0], [])
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="libraries to measure")
    parser.add_argument("--bits", default="1,2,3,4,5,6,7,8", help="of Tailorbird's weights")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--faster", action="store_true", help="keep the figure of an earlier run where it is faster")
    parser.add_argument("--once", action="store_true", help="every product once, nothing measured: for callgrind")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "kernels.json")
    parser.set_defaults(page=ROOT / "results" / "kernels.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
