"""The Triton kernels compiled for GPUs that need not be there: what the interpreter takes, the compiler may refuse.

Whether they compute the same there only a GPU can tell: TRITON_INTERPRET=0 pytest tests/kernels/test_triton.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

CHILD = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tailorbird.kernels import triton_kernels as kernels

GRIDS = {
    "u8, integer": {"scales": "*u8", "row_scales": "*fp16", "zeros": "*u8"},
    "u8, float, columns": {
        "columns": "*i32", "scales": "*u8", "row_scales": "*fp16", "offsets": "*i8", "row_offsets": "*fp16"
    },
    "fp16, none": {"scales": "*fp16"},
    "fp16, float": {"scales": "*fp16", "offsets": "*fp16"},
}

def compiled(fn, pointers, numbers, capability, **options):
    names = fn.arg_names
    known = {"columns", "scales", "row_scales", "zeros", "offsets", "row_offsets"}
    constants = {name: None for name in known - set(pointers)} | numbers
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    source = ASTSource(fn=fn, signature=signature, constexprs=constants)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return len(binary.asm["cubin"])

capability = int(sys.argv[1])
rows, warps, stages = kernels.TILES[3]
kinds = [("*bf16", 1, 1), ("*fp32", 8, 3), ("*bf16", 16, 4), ("*fp32", 16, 8), ("*fp16", 64, 2)]
for (x, n, bits), grid in zip(kinds, [*GRIDS.values(), GRIDS["u8, integer"]]):
    numbers = {"BITS": bits, "MIDDLE": 2.0, "N": n, "DOT": n > 8, "R": rows}
    if n == 1:  # the launcher compiles ones in
        numbers |= {"n": 1, "count": 1, "share": 1, "group_words": 1, "rows": 1}
    pointers = {"x": x, "out": "*fp32", "words": "*i32"} | grid
    assert compiled(kernels._matmul, pointers, numbers, capability, num_warps=warps, num_stages=stages)
for bits, grid in zip((4, 1, 8, 3), GRIDS.values()):
    pointers = {"ids": "*i64", "out": "*fp32", "words": "*i32"} | grid
    numbers = {"BITS": bits, "MIDDLE": 2.0, "R": 4}
    assert compiled(kernels._gather, pointers, numbers, capability, enable_fp_fusion=False)
print("compiled")
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile(tmp_path: Path, capability: int) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(capability)], env=environment, capture_output=True, text=True
    )
    assert result.stdout.strip() == "compiled", result.stderr
