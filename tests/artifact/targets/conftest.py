"""Artifacts of tiny models, made once."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tailorbird
import tailorbird.artifact.verify as verifying
from tailorbird.runtime.load import load

MakeArtifact = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The module tiny.py of the tests of whole jobs."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "pipeline" / "tiny.py")))


@pytest.fixture(scope="session")
def artifact_of(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> MakeArtifact:
    """The folder of an artifact of a family, compressed with options of `compress`; the model lies beside it."""
    made: dict[Any, Path] = {}
    text = tiny.make_text(tmp_path_factory.mktemp("text") / "words.txt")

    def make(family: str, method: str = "rtn", budget: str = "5bits", changes: Any = None, **options: Any) -> Path:
        key = repr((family, method, budget, changes, options))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            tiny.make_model(family, folder / "model", **(changes or {}))
            call = {"method": method, "budget": budget, "data": text, **tiny.SMALL, **options}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(verifying, "_verify_afresh", verifying.verify)
                tailorbird.compress(folder / "model", folder / "artifact", **call)
            made[key] = folder / "artifact"
        return made[key]

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """Token ids longer than the tiny models' sliding window."""
    return torch.randint(320, (2, 21), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def logits(ids: torch.Tensor) -> Callable[[Path], torch.Tensor]:
    """Our own logits of an artifact, in plain float32 arithmetic."""
    return lambda folder: load(folder, dense=True).logits(ids)
