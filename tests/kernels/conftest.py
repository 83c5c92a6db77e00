"""Every variant of the native kernels that this processor has, and packed weights of any format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tailorbird.kernels import native

_bitplanes = run_path(str(Path(__file__).parents[1] / "formats" / "test_bitplanes.py"))


@pytest.fixture(scope="module")
def extension() -> Iterator[Any]:
    """The compiled module, with all processors and the variant of choice again afterwards."""
    module = native.extension()
    assert module is not None, "the kernels are not compiled: install the package with a C++ compiler"
    chosen = module.variant()
    yield module
    module.use_variant(chosen)
    module.set_threads(0)


@pytest.fixture(scope="session")
def specs() -> Any:
    """The strategy of the tests of `formats`: any format of a small row."""
    return _bitplanes["specs"]


@pytest.fixture(scope="session")
def packed() -> Any:
    """A function that gives a random weight in a format, and its codes."""
    return _bitplanes["packed"]
