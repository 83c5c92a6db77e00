"""Tiny random models of every family, and layers to fit."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

_tests = Path(__file__).parents[1]
make_model = run_path(str(_tests / "anatomy" / "conftest.py"))["make_model"]
layer_of = run_path(str(_tests / "fit" / "conftest.py"))["layer_of"]
