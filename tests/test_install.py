"""Installing without a compiler: the package is there all the same, and computes on plain PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("CMakeLists.txt", "LICENSE", "NOTICE", "README.md", "pyproject.toml", "src")
USED = """
import sys
import warnings

# An editable installation finds its own package before any path.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
from tailorbird import kernels
from tailorbird.kernels import native

assert {place!r} in kernels.__file__, kernels.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not native.available()
    assert not native.available()
print([one.category.__name__ for one in caught])
"""


@pytest.mark.slow
def test_no_compiler_gives_a_wheel_without_kernels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in NEEDED:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(place, source / name)
    false = shutil.which("false")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "-w", str(tmp_path)]
    done = subprocess.run(
        [*pip, str(source)], env={**os.environ, "CC": str(false), "CXX": str(false)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert not any("_native" in name and not name.endswith(".pyi") for name in names)
    assert "tailorbird/kernels/reference.py" in names
    code = USED.format(place=str(tmp_path / "site"))
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    used = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.strip() == "['SlowKernelsWarning']"
