"""Milliseconds of ggml's matrix product by type, as JSON on standard output, for benchmarks/kernels.py.

    .bench/peers-venv/bin/python benchmarks/peers/product_ggml.py --threads 2 --types Q4_0,Q4_K

The library that llama-cpp-python brings is called as llama.cpp calls it: all copies are one graph. Where ggml has a
buffer that rearranges weights of a type for the processor both forms are measured; the faster counts.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from types import SimpleNamespace
from typing import Any

import llama_cpp
import numpy as np
import product

BITS = {
    "Q1_0": 1, "Q2_0": 2, "Q2_K": 2, "Q3_K": 3, "Q4_0": 4, "Q4_K": 4, "IQ4_NL": 4, "Q5_0": 5, "Q5_K": 5, "Q6_K": 6,
    "Q8_0": 8,
}  # fmt: skip
CPU, F32 = 0, 0  # numbers of the device and of the type in ggml's headers


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: Any) -> None:
    """ggml writes a line per copy."""


llama_cpp.llama_log_set(_silent, c_void_p(0))


class _Settings(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("memory", c_void_p), ("no_alloc", c_bool)]


class _Tensor(ctypes.Structure):
    _fields_ = [("type", c_int), ("buffer", c_void_p)]  # the first fields of ggml_tensor


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "init": (c_void_p, [_Settings]),
    "free": (None, [c_void_p]),
    "tensor_overhead": (c_size_t, []),
    "graph_overhead_custom": (c_size_t, [c_size_t, c_bool]),
    "blck_size": (c_int64, [c_int]),
    "row_size": (c_size_t, [c_int, c_int64]),
    "new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "build_forward_expand": (None, [c_void_p, c_void_p]),
    "quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "backend_buft_alloc_buffer": (c_void_p, [c_void_p, c_size_t]),
    "backend_buft_name": (c_char_p, [c_void_p]),
    "backend_buffer_free": (None, [c_void_p]),
    "backend_cpu_buffer_type": (c_void_p, []),
    "backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "backend_dev_backend_reg": (c_void_p, [c_void_p]),
    "backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "backend_dev_by_type": (c_void_p, [c_int]),
    "backend_cpu_init": (c_void_p, []),
    "backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
}


def _functions() -> SimpleNamespace:
    """ggml's functions without their prefix, found through the library of llama.cpp: opened by themselves the wheel's
    files would be second copies, and the two would not know each other's buffers."""
    found = SimpleNamespace()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(llama_cpp.llama_cpp._lib, f"ggml_{name}")
        function.restype, function.argtypes = result, arguments
        setattr(found, name, function)
    return found


ggml = _functions()


def main() -> None:
    """Measure every type that has these shapes; print the rows."""
    options = product.parser((__doc__ or "").split("\n")[0], list(BITS)).parse_args()
    backend = ggml.backend_cpu_init()
    ggml.backend_cpu_set_n_threads(backend, options.threads)
    found = []
    for rows, cols in product.shapes(options):
        w = product.weight(rows, cols)
        for name in options.types.split(","):
            kind = getattr(llama_cpp, f"GGML_TYPE_{name}")
            if cols % ggml.blck_size(kind):
                continue
            print(f"ggml {name} {rows}x{cols}", file=sys.stderr, flush=True)
            packed = _quantise(w, kind)
            for n in product.rows_of(options):
                x = product.activations(n, cols)
                buffers = _buffers(kind, rows, cols, n)
                tried = [_measure(backend, name, kind, buffer, w, packed, x, options) for buffer in buffers]
                found.append(min(tried, key=lambda row: row["milliseconds"]))
    product.tell("ggml", f"llama-cpp-python {llama_cpp.__version__}", found)


def _quantise(w: product.Floats, kind: int) -> Any:
    rows, cols = w.shape
    packed = np.empty(rows * ggml.row_size(kind, cols), np.uint8)
    ggml.quantize_chunk(kind, w.ctypes.data, packed.ctypes.data, 0, rows, cols, None)
    return packed


def _context(tensors: int, nodes: int = 0) -> Any:
    graph = ggml.graph_overhead_custom(nodes, False) if nodes else 0
    return ggml.init(_Settings(tensors * ggml.tensor_overhead() + graph + 4096, None, True))


def _buffers(kind: int, rows: int, cols: int, n: int) -> list[Any]:
    """Types of buffer in which ggml multiplies this weight, the plain one last; asked as llama.cpp asks."""
    device = ggml.backend_dev_by_type(CPU)
    find = b"ggml_backend_dev_get_extra_bufts"
    function = ggml.backend_reg_get_proc_address(ggml.backend_dev_backend_reg(device), find)
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(function)(device)
    extra: list[Any] = []
    while listed and listed[len(extra)]:
        extra.append(listed[len(extra)])
    return [*(b for b in extra if _takes(device, b, kind, rows, cols, n)), ggml.backend_cpu_buffer_type()]


def _takes(device: Any, buffer: Any, kind: int, rows: int, cols: int, n: int) -> bool:
    context = _context(3)
    w = ggml.new_tensor_2d(context, kind, cols, rows)
    empty = ggml.backend_buft_alloc_buffer(buffer, 0)
    _Tensor.from_address(w).buffer = empty
    y = ggml.mul_mat(context, w, ggml.new_tensor_2d(context, F32, cols, n))
    takes = bool(ggml.backend_dev_supports_op(device, y))
    ggml.backend_buffer_free(empty)
    ggml.free(context)
    return takes


def _measure(
    backend: Any, name: str, kind: int, buffer: Any, w: product.Floats, packed: Any, x: product.Floats,
    options: argparse.Namespace,
) -> product.Row:  # fmt: skip
    (rows, cols), n = w.shape, len(x)
    copies = product.copies(packed.nbytes, n, options)
    weights, rest = _context(copies), _context(copies + 1, nodes=2 * copies + 1)
    held = [ggml.new_tensor_2d(weights, kind, cols, rows) for _ in range(copies)]
    given = ggml.new_tensor_2d(rest, F32, cols, n)
    results = [ggml.mul_mat(rest, one, given) for one in held]
    memory = [
        ggml.backend_alloc_ctx_tensors_from_buft(weights, buffer),
        ggml.backend_alloc_ctx_tensors_from_buft(rest, ggml.backend_cpu_buffer_type()),
    ]
    for one in held:
        ggml.backend_tensor_set(one, packed.ctypes.data, 0, packed.nbytes)
    ggml.backend_tensor_set(given, x.ctypes.data, 0, x.nbytes)
    graph = ggml.new_graph_custom(rest, 2 * copies + 1, False)
    for result in results:
        ggml.build_forward_expand(graph, result)

    def measure() -> tuple[float, product.Floats]:
        seconds = product.best(lambda: ggml.backend_graph_compute(backend, graph), options.seconds) / copies
        y = np.empty((n, rows), np.float32)
        ggml.backend_tensor_get(results[-1], y.ctypes.data, 0, y.nbytes)
        return seconds, y

    found = product.row(name, BITS[name], w, x, packed.nbytes, measure)
    for block in memory:
        ggml.backend_buffer_free(block)
    ggml.free(weights)
    ggml.free(rest)
    return found | {"buffer": ggml.backend_buft_name(buffer).decode()}


if __name__ == "__main__":
    main()
