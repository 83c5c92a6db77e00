"""The layers of the tests of `fit` and the blocks of those of `tune`."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

_shared = run_path(str(Path(__file__).parents[1] / "fit" / "conftest.py"))
_tune = run_path(str(Path(__file__).parents[1] / "tune" / "conftest.py"))
block_of = _tune["block_of"]
layer_of, planted, planted_wide, naive = (_shared[name] for name in ("layer_of", "planted", "planted_wide", "naive"))
