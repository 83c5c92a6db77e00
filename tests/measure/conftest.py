"""The tiny models of the tests of `anatomy`."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

_shared = run_path(str(Path(__file__).parents[1] / "anatomy" / "conftest.py"))
make_model = _shared["make_model"]
