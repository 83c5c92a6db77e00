"""The tiny models of the tests of `anatomy`."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest
import torch

from tailorbird.kernels import dense
from tailorbird.measure.states import States

_shared = run_path(str(Path(__file__).parents[1] / "anatomy" / "conftest.py"))
make_model = _shared["make_model"]


@pytest.fixture
def in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without instructions for bfloat16."""
    monkeypatch.setattr(dense, "learning", lambda: torch.float32)


@pytest.fixture(params=[False, True], ids=["in memory", "on disk"])
def spill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all hidden states are too large for memory."""
    if request.param:
        monkeypatch.setattr(States.__init__, "__defaults__", (0,))
    return bool(request.param)
