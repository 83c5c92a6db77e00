"""Every entry point of the kernels with random weights: under sanitizers, and on another processor.

Each array has memory of the exact size, so a read or write beside it is seen.
"""

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
CROSS, QEMU = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
FLAGS = ["-std=c++20", "-ffp-contract=off", "-w", "-pthread", f"-I{CPP}"]
# -O0: every read and write.
SANITIZERS = ["-O0", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
PLAIN = (
    *("attention", "bandwidth", "cache", "decoder", "kernels", "layers", "matrix", "memory", "pool"),
    *("sampling", "table", "trellis", "trellis_portable", "trellis_search", "variant_portable"),
)
DRIVERS = ("fuzz", "fuzz_decoder")
SOURCES: dict[str, list[str]] = {name: [] for name in PLAIN}
AVX512 = [*(f"-mavx512{kind}" for kind in ("f", "bw", "vl", "dq", "vbmi", "vnni")), "-mgfni", "-mf16c"]
AVX2 = ["-mavx2", "-mf16c"]
X86 = {"variant_avx2": AVX2, "trellis_avx2": AVX2, "variant_avx512": AVX512, "trellis_avx512": AVX512}
NEON, DOTPROD = ["-march=armv8-a"], ["-march=armv8.2-a+dotprod"]
ARM = {"variant_neon": NEON, "trellis_neon": NEON, "variant_neon_dotprod": DOTPROD, "trellis_neon_dotprod": DOTPROD}
VARIANTS = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}


def build(folder: Path, compiler: str, flags: list[str], variants: dict[str, list[str]]) -> Path:
    """Compile the kernels with these variants and the driver, two files at a time."""
    folder.mkdir()
    jobs = {CPP / f"{name}.cpp": extra for name, extra in (SOURCES | variants).items()}
    jobs |= {HERE / f"{name}.cpp": [] for name in DRIVERS}
    define = ["-DTAILORBIRD_X86"] * (variants is X86) + ["-DTAILORBIRD_ARM"] * (variants is ARM)

    def compile_one(source: Path) -> str:
        out = str(folder / f"{source.stem}.o")
        subprocess.run([compiler, *FLAGS, *flags, *define, *jobs[source], "-c", str(source), "-o", out], check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, jobs))
    subprocess.run([compiler, *flags, "-pthread", *objects, "-o", str(folder / "fuzz")], check=True)
    return folder / "fuzz"


def run(*command: str | Path) -> list[str]:
    """What 300 cases print: the variants, a digest each, the number of cases."""
    done = subprocess.run([*command, "300", "1"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 302 and lines[-1] == "300 cases"
    return lines


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    assert COMPILER is not None
    run(build(tmp_path / "here", COMPILER, SANITIZERS, VARIANTS.get(platform.machine(), {})))


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif(
    CROSS is None or QEMU is None,
    reason="needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user)",
)
def test_arm_gives_the_same_bits(tmp_path: Path) -> None:
    assert COMPILER is not None and CROSS is not None and QEMU is not None
    here = run(build(tmp_path / "here", COMPILER, ["-O1"], {}))
    arm = build(tmp_path / "arm", CROSS, ["-O2", "-static"], ARM)
    for processor, variants in (("max", "neon-dotprod neon portable"), ("cortex-a53", "neon portable")):
        there = run(QEMU, "-cpu", processor, arm)
        assert there[0].split() == variants.split()  # each of them gave the same in every case, or the run had failed
        assert there[1:] == here[1:]
