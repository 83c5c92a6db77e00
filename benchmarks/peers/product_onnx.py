"""Milliseconds of onnxruntime's MatMulNBits by bits, as JSON on standard output, for benchmarks/kernels.py.

    python benchmarks/peers/product_onnx.py --threads 2 --types 4

It needs the extra `onnx`. Activations are rounded to 8 bits (accuracy_level 4) and groups have 128 columns, as in
Tailorbird's products; zero points are in the middle. All copies are nodes of one graph. Two bits are measured with
tables and without; the faster counts.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import onnxruntime
import product
from onnx import TensorProto, helper, numpy_helper

GROUP = 128
BITS = ["2", "4", "8"]  # that the CPU's kernel takes


def main() -> None:
    """Measure every bit-width; print the rows."""
    options = product.parser((__doc__ or "").split("\n")[0], BITS).parse_args()
    found = []
    for rows, cols in product.shapes(options):
        w = product.weight(rows, cols)
        for bits in map(int, options.types.split(",")):
            print(f"onnxruntime {bits} bits {rows}x{cols}", file=sys.stderr, flush=True)
            packed, scales = _quantise(w, bits)
            for n in product.rows_of(options):
                x = product.activations(n, cols)
                tried = [_measure(bits, w, packed, scales, x, tables, options) for tables in {False, bits == 2}]
                found.append(min(tried, key=lambda row: row["milliseconds"]))
    product.tell("onnxruntime", onnxruntime.__version__, found)


def _quantise(w: product.Floats, bits: int) -> tuple[Any, Any]:
    """Codes around the middle, lowest bits first: uint8 (rows, groups, bytes of a group); float32 scales."""
    rows, cols = w.shape
    groups, middle = w.reshape(rows, cols // GROUP, GROUP), 2 ** (bits - 1)
    scales = np.abs(groups).max(2) / (middle if bits == 2 else middle - 1)
    codes = np.clip(np.rint(groups / scales[..., None]) + middle, 0, 2**bits - 1).astype(np.uint8)
    per = 8 // bits
    shifts = (np.arange(per) * bits).astype(np.uint8)
    packed = np.bitwise_or.reduce(codes.reshape(rows, -1, GROUP // per, per) << shifts, axis=3)
    return packed, scales.astype(np.float32)


def _session(bits: int, packed: Any, scales: Any, copies: int, tables: bool, threads: int) -> Any:
    rows, cols = len(packed), packed.shape[1] * GROUP
    nodes, held, results = [], [], []
    for i in range(copies):
        # Rows in another order: what is equal onnxruntime would keep once.
        turned = np.roll(packed, i, 0), np.roll(scales, i, 0).reshape(-1)
        held += [numpy_helper.from_array(array, f"{name}{i}") for name, array in zip("ws", turned, strict=True)]
        nodes.append(
            helper.make_node(
                "MatMulNBits", ["x", f"w{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", K=cols, N=rows, bits=bits,
                block_size=GROUP, accuracy_level=4,
            )
        )  # fmt: skip
        results.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", rows]))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", cols])]
    graph = helper.make_graph(nodes, "products", given, results, held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("mlas.use_lut_gemm", str(int(tables)))
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


def _measure(
    bits: int, w: product.Floats, packed: Any, scales: Any, x: product.Floats, tables: bool,
    options: argparse.Namespace,
) -> product.Row:  # fmt: skip
    nbytes = packed.nbytes + scales.nbytes
    copies = product.copies(nbytes, len(x), options)
    session = _session(bits, packed, scales, copies, tables, options.threads)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    results = [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((len(x), len(w)), np.float32)) for _ in range(copies)]
    for i, result in enumerate(results):
        binding.bind_ortvalue_output(f"y{i}", result)

    def measure() -> tuple[float, product.Floats]:
        seconds = product.best(lambda: session.run_with_iobinding(binding), options.seconds) / copies
        return seconds, results[0].numpy()

    return product.row(f"MatMulNBits {bits}", bits, w, x, nbytes, measure) | {"tables": tables}


if __name__ == "__main__":
    main()
