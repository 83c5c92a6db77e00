"""Methods that see a block as a whole: what they are called with, and what becomes of what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.artifact.verify import verify
from tailorbird.errors import UsageError
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.block import Block, Transformed
from tailorbird.measure.statistics import Need, Stats
from tailorbird.method import Method
from tailorbird.methods import methods
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.progress import Progress
from tailorbird.pipeline.refit import export_refitted

SMALL: dict[str, Any] = {"samples": 8, "length": 32}
READERS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """Scales what the first norm gives, by powers of two; rounds half of the parts itself, with its seed's noise."""

    name: ClassVar[str] = "toy"
    needs: ClassVar[frozenset[Need]] = frozenset({"gram", "block", "reference"})
    seen: ClassVar[list[Block]] = []
    odd: ClassVar[Tensor | None] = None

    noise: float = 0.0

    def transform(self, block: Block) -> Transformed:
        self.seen.append(block)
        norm = next(name for name in block.kept if name.endswith("input_layernorm.weight"))
        if self.odd is not None:
            return Transformed({norm: self.odd})
        scale = torch.exp2(torch.arange(64) % 3)
        scales = {name: scale for name in block.weights if name.endswith(READERS)}
        readers = {f"{name}.weight": block.weights[name] * scale for name in scales}
        return Transformed(readers | {norm: block.kept[norm] / scale.to(block.kept[norm].dtype)}, scales)

    def tune(self, block: Block, specs: Mapping[str, PlaneSpec]) -> Mapping[str, Fitted]:
        self.seen.append(block)
        block.told(1, 2)
        some = list(block.weights)[::2]
        noise = torch.rand((), generator=block.generator()) * self.noise
        return {name: sweep(block.weights[name] + noise, specs[name], minmax) for name in some}

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        fitted = sweep(weight, spec, minmax)
        weight.zero_()  # it may be overwritten
        return fitted


class Told(Progress):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def within(self, done: int, total: int) -> None:
        self.steps.append((done, total))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    monkeypatch.setitem(methods(), "toy", Toy)
    monkeypatch.setattr(Toy, "seen", [])
    return Toy


@pytest.mark.usefixtures("here")
def test_a_transform_is_written_and_counts_nothing(model_of: Any, text: Path, tmp_path: Path, toy: type[Toy]) -> None:
    told = Told()
    alike = {"rows": False}  # classes of rows would take a few bytes less than planned
    planned = prepare(model_of("llama"), "toy", "8bits", alike)
    job: dict[str, Any] = {"method": "toy", "budget": "8bits", "data": text, "options": alike, **SMALL}
    made = compress(model_of("llama"), tmp_path / "a", progress=told, **job)
    artifact = made.artifact
    assert sum(path.stat().st_size for path in artifact.folder.glob("*.safetensors")) == planned.weight_bytes
    assert verify(artifact.folder).digest == artifact.digest
    assert told.steps == [(1, 2)] * 2 and len({block.seed for block in toy.seen}) == 2
    norm = "model.layers.1.input_layernorm.weight"
    scale = torch.exp2(torch.arange(64) % 3)
    original, packed = planned.model, Model.open(artifact)
    assert torch.equal(packed.read(norm).float() * scale, original.read(norm).float())
    for part in packed.parts:
        factor = scale if part.name.endswith(READERS) else 1
        assert torch.allclose(packed.weight(part), original.weight(part) * factor, atol=0.02), part.name
        # The error is that of the weight that was fitted, whichever way.
        assert 0 < made.facts[part.name]["error"] < 1e-3, part.name
    before, after = toy.seen[0].stats, toy.seen[1].stats
    name = "model.layers.0.self_attn.q_proj"
    assert torch.allclose(after[name].gram * scale * scale[:, None], before[name].gram, rtol=1e-3, atol=1e-3)  # type: ignore[operator, arg-type]


@pytest.mark.usefixtures("here")
def test_stopped_and_resumed(
    model_of: Any, text: Path, tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    job: dict[str, Any] = {"method": "toy", "budget": "4bits", "data": text, "options": {"noise": 0.1}, **SMALL}
    whole = compress(model_of("llama"), tmp_path / "a", **job).artifact.digest
    assert compress(model_of("llama"), tmp_path / "b", seed=1, **job).artifact.digest != whole
    compressing = import_module("tailorbird.pipeline.compress")  # the package has a function of that name
    plain = compressing.fit_piece

    def stopping(prepared: Any, piece: Any, *rest: Any) -> Any:
        if piece.block == 1:
            raise KeyboardInterrupt
        return plain(prepared, piece, *rest)

    monkeypatch.setattr(compressing, "fit_piece", stopping)
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("llama"), tmp_path / "c", **job)
    monkeypatch.setattr(compressing, "fit_piece", plain)
    torch.manual_seed(11)
    assert compress(model_of("llama"), tmp_path / "c", resume=True, **job).artifact.digest == whole


@pytest.mark.parametrize("odd", [torch.ones(3, dtype=torch.bfloat16), torch.ones(64, dtype=torch.float64)], ids=str)
def test_a_transform_that_does_not_fit(
    model_of: Any, text: Path, tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch, odd: Tensor
) -> None:
    monkeypatch.setattr(toy, "odd", odd)
    with pytest.raises(ValueError, match=r"a transform gave .*input_layernorm"):
        compress(model_of("llama"), tmp_path / "a", method="toy", budget="4bits", data=text, **SMALL)


@pytest.mark.usefixtures("here", "toy")
def test_the_originals_weights_do_not_go_beside_changed_norms(model_of: Any, text: Path, tmp_path: Path) -> None:
    compress(model_of("llama"), tmp_path / "a", method="toy", budget="4bits", data=text, **SMALL)
    with pytest.raises(UsageError, match=r"input_layernorm.* is not the original's"):
        export_refitted(tmp_path / "a", tmp_path / "b", "gguf", model_of("llama"), data=text, **SMALL)
