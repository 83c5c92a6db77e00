"""The tiny models of the tests of whole jobs."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint

make_model = runpy.run_path(str(Path(__file__).parents[1] / "pipeline" / "tiny.py"))["make_model"]


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A family's tiny model, laid out."""
    made: dict[str, Path] = {}

    def open_(name: str) -> Model:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            make_model(name, made[name])
        return Model.open(open_checkpoint(made[name]))

    return open_


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randint(2, 300, (6, 24), generator=torch.Generator().manual_seed(0))
