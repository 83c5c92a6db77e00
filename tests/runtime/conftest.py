"""The tiny models of the tests of `tasks`, and packed ones made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PackedWeight, PlaneSpec
from tailorbird.formats.rows import FittedRows
from tailorbird.plan import Plan

make_model = run_path(str(Path(__file__).parents[1] / "tasks" / "conftest.py"))["make_model"]


class PackedModel:
    """What an artifact offers, in memory: every part rounded to 3 bits, 4 for the embedding; with `rows` every third
    row of embedding and head to 6."""

    def __init__(self, model: Model, folder: Path, rows: bool = False) -> None:
        self.model, self.folder, self.source = model, folder, "packed"
        self.config = model.config
        specs: dict[str, Any] = {
            part.name: PlaneSpec.uniform(4 if part.block is None else 3, part.shape[1], 8) for part in model.parts
        }
        self.plan = Plan("rtn", {}, model.parts, specs)
        self.packed: dict[str, PackedWeight] = {
            part.name: sweep(model.read(part.tensor), specs[part.name], minmax).pack() for part in model.parts
        }
        for part in model.parts if rows else ():
            if part.block is None:
                self.packed[part.name] = in_classes(model.read(part.tensor))
                specs[part.name] = self.packed[part.name].spec

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        shapes = {part.tensor: part.shape for part in self.model.parts} | self.model.kept()
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    def planes(self, part: str) -> PackedWeight:
        return self.packed[part]

    def read(self, name: str) -> torch.Tensor:
        part = self.packed.get(name.removesuffix(".weight"))
        return self.model.read(name) if part is None else part.dequantize()

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.read(name)[start:stop]

    def tokenizer_bytes(self) -> bytes:
        return (self.folder / "tokenizer.json").read_bytes()


def in_classes(weight: torch.Tensor) -> PackedWeight:
    """Every third row at 6 bits, the others at 2."""
    classes = (torch.arange(len(weight)) % 3 == 0).to(torch.uint8)
    forms = [PlaneSpec.uniform(bits, weight.shape[1], 8) for bits in (2, 6)]
    return FittedRows(classes, [sweep(weight[classes == k], form, minmax) for k, form in enumerate(forms)]).pack()


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no native kernels were there."""
    monkeypatch.setattr("tailorbird.runtime.weights.available", lambda: False)


@pytest.fixture(params=["native", "reference"])
def kernels(request: pytest.FixtureRequest) -> str:
    """With the native kernels, and without."""
    if request.param == "reference":
        request.getfixturevalue("reference")
    return str(request.param)


@pytest.fixture
def make_packed(make_model: Any) -> Callable[[str], PackedModel]:
    """A function that gives a family's tiny model, packed."""

    def make(family: str) -> PackedModel:
        folder, _ = make_model(family)
        return PackedModel(Model.open(open_checkpoint(folder)), folder)

    return make


@pytest.fixture
def pack_any() -> Callable[[torch.nn.Module], PackedModel]:
    """A function that packs a module of the test's own."""
    return lambda module: PackedModel(Model.wrap(module), Path())


_families = run_path(str(Path(__file__).parents[1] / "anatomy" / "conftest.py"))
make_family = pytest.fixture(name="make_family", scope="session")(_families["make_model"].__wrapped__)


@pytest.fixture
def pack_family(make_family: Any) -> Callable[..., PackedModel]:
    """A function that packs the tiny model of any family, which has no tokenizer; with `rows` rows in classes."""

    def make(family: str, rows: bool = False) -> PackedModel:
        folder, _ = make_family(family)
        return PackedModel(Model.open(open_checkpoint(folder)), folder, rows)

    return make
