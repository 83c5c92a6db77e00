"""What is measured of an attempt is what the artifact made of it loses, whatever the method does to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tailorbird.pipeline.pieces as pieces
import tailorbird.pipeline.refine as refining
from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.method import Method
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.calibration import weighing
from tailorbird.tasks.language import evaluate

SMALL: dict[str, Any] = {"samples": 8, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("method", "options"), [("awq", {"grid": 4}), ("spinquant", {}), ("awq", {"grid": 4, "rotate": "learned"})]
)
def test_an_attempt_loses_what_its_artifact_loses(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(refining, "WORTH", -1.0)  # every new plan is worth fitting
    monkeypatch.setattr(Method, "transforms", False)
    kl, found = refining._kl, []

    def heard(*args: Any) -> float:
        found.append(kl(*args))
        return found[-1]

    monkeypatch.setattr(refining, "_kl", heard)
    folder = model_of("untied")
    given: dict[str, Any] = {"method": method, "budget": "4.5bits", "options": options, "data": text, **SMALL}
    artifact = compress(folder, tmp_path / "a", allocate="measured", refine=1, **given).artifact
    windows = weighing(prepare(folder, method, "4.5bits", options), text, 8, 32, 0).held_back
    stored, original = Model.open(Artifact.open(artifact.folder)), Model.open(open_checkpoint(folder))
    assert len(found) == 2
    assert evaluate(stored, windows, original).kl == pytest.approx(min(found), rel=1e-3)


@pytest.mark.usefixtures("here")
def test_fitted_weights_are_compared_with_those_they_were_made_of(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_to_fit: dict[str, torch.Tensor] = {}
    compared: list[float] = []
    realised, fit = refining.realised, pieces._fit

    def fitting(job: Any, part: Any, weight: torch.Tensor, *args: Any) -> Any:
        given_to_fit[part.name] = weight.clone()
        return fit(job, part, weight, *args)

    def heard(model: Model, planes: Any, *args: Any) -> Any:
        for part in model.parts:
            weight, packed = model.weight(part), planes(part)
            assert torch.equal(weight, given_to_fit[part.name]), part.name
            error = float((packed.dequantize() - weight).norm() / weight.norm())
            compared.append(error * 2**packed.spec.mean_bits)
            model.drop(part.name)
        return realised(model, planes, *args)

    monkeypatch.setattr(pieces, "_fit", fitting)
    monkeypatch.setattr(refining, "realised", heard)
    given: dict[str, Any] = {"budget": "6bits", "allocate": "measured", "data": text, **SMALL}
    compress(model_of("untied"), tmp_path / "a", method="spinquant", **given)
    # 2.4 at most by measurement, at every width.
    assert compared and max(compared) < 2.5
    compared.clear()
    compress(model_of("untied"), tmp_path / "b", method="awq", options={"grid": 4}, **given)
    assert not compared
    assert torch.isfinite(torch.tensor(Artifact.open(tmp_path / "b").bits))
