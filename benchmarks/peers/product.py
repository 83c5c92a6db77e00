"""What the products of every library are measured with: the same numbers, cold weights, one clock.

One row of activations is multiplied with copies of the weight one after the other, more of them than the cache holds:
so a decoder meets its weights. Many rows work on one copy.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]
SHAPES = "4096x4096,2048x640"


def weight(rows: int, cols: int) -> Floats:
    """Normal numbers with a standard deviation of 1/50, (rows, cols)."""
    return np.random.default_rng(0).standard_normal((rows, cols), dtype=np.float32) / np.float32(50)


def activations(rows: int, cols: int) -> Floats:
    """Normal numbers, (rows, cols)."""
    return np.random.default_rng(1).standard_normal((rows, cols), dtype=np.float32)


def copies(nbytes: int, rows: int, options: argparse.Namespace) -> int:
    """Copies of a weight that one pass goes through."""
    return -(-options.cold_megabytes * 10**6 // nbytes) if rows == 1 else 1


def best(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the passes that fit into `seconds`; at least two, after one that does not count."""
    run()
    times, end = [], perf_counter() + seconds
    while len(times) < 2 or perf_counter() < end:
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)


def row(kind: str, bits: int, w: Floats, x: Floats, nbytes: int, measure: Callable[[], tuple[float, Floats]]) -> Row:
    """One figure: `measure` gives the seconds of one product and the product, compared with that of the floats."""
    load = os.getloadavg()[0]
    seconds, y = measure()
    exact = x @ w.T
    return {
        "type": kind, "bits": bits, "shape": list(w.shape), "rows": len(x), "bytes": nbytes,
        "milliseconds": seconds * 1e3, "error": float(np.linalg.norm(y - exact) / np.linalg.norm(exact)), "load": load,
    }  # fmt: skip


def parser(description: str, types: list[str]) -> argparse.ArgumentParser:
    """The options that every library's script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shapes", default=SHAPES, help="ROWSxCOLUMNS, with commas")
    parser.add_argument("--rows", default="1,512", help="rows of activations, with commas")
    parser.add_argument("--types", default=",".join(types))
    parser.add_argument("--seconds", type=float, default=0.3, help="for every figure")
    parser.add_argument("--cold-megabytes", type=int, default=128, help="copies of a weight for one row")
    return parser


def shapes(options: argparse.Namespace) -> list[tuple[int, int]]:
    """The shapes asked for."""
    return [(int(rows), int(cols)) for rows, cols in (shape.split("x") for shape in options.shapes.split(","))]


def rows_of(options: argparse.Namespace) -> list[int]:
    """The numbers of rows of activations asked for."""
    return [int(number) for number in options.rows.split(",")]


def tell(library: str, version: str, found: list[Row]) -> None:
    """Print the rows for benchmarks/kernels.py."""
    print(json.dumps([{"library": library, "version": version} | row for row in found]))
