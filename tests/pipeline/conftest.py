"""Tiny models, and a verification that does not start a process where that is not what a test is about."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import tailorbird.artifact.verify as verifying

MakeModel = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The module tiny.py."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny.py")))


@pytest.fixture(scope="session")
def model_of(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """The folder of a family's tiny model."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            tiny.make_model(name, made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def text(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration text."""
    return tiny.make_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify in this process; a fresh one takes seconds to import what it needs."""
    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)
