"""The layers of the tests of `fit`."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

_shared = run_path(str(Path(__file__).parents[1] / "fit" / "conftest.py"))
layer_of, planted, planted_wide, naive = (_shared[name] for name in ("layer_of", "planted", "planted_wide", "naive"))
