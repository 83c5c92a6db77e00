"""The kernels under sanitizers: every entry point with random weights in memory of the exact size."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CPP = HERE.parents[1] / "src" / "tailorbird" / "kernels" / "cpp"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
# Without optimisation: the point is every read and write, and that compiles fast.
FLAGS = ["-std=c++20", "-O0", "-g1", "-ffp-contract=off", "-w", "-pthread"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SOURCES = {"kernels": [], "matrix": [], "pool": [], "variant_portable": []}
AVX512 = [f"-mavx512{kind}" for kind in ("f", "bw", "vl", "dq", "vbmi", "vnni")]
X86 = {"variant_avx2": ["-mavx2", "-mf16c"], "variant_avx512": [*AVX512, "-mgfni", "-mf16c"]}


def build(folder: Path, flags: list[str]) -> Path:
    """Compile the kernels and the driver, two files at a time."""
    assert COMPILER is not None
    intel = platform.machine() in ("x86_64", "AMD64")
    jobs = {CPP / f"{name}.cpp": extra for name, extra in (SOURCES | (X86 if intel else {})).items()}
    jobs |= {HERE / "fuzz.cpp": []}
    define = ["-DTAILORBIRD_X86"] if intel else []

    def compile_one(source: Path) -> str:
        out = str(folder / f"{source.stem}.o")
        command = [COMPILER, *FLAGS, *flags, *define, *jobs[source], f"-I{CPP}", "-c", str(source), "-o", out]
        subprocess.run(command, check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, jobs))
    subprocess.run([COMPILER, *flags, "-pthread", *objects, "-o", str(folder / "fuzz")], check=True)
    return folder / "fuzz"


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    driver = build(tmp_path, SANITIZERS)
    done = subprocess.run([str(driver), "300", "1"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "300 cases\n"), done.stderr
