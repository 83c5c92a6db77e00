"""Rows of embedding and head in classes, through a whole job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.verify import verify
from tailorbird.formats import RowSpec
from tailorbird.pipeline import compress, prepare
from tailorbird.plan import Plan
from tailorbird.runtime.decoder import Settings, native_decoder
from tailorbird.runtime.load import load

SMALL: dict[str, Any] = {"samples": 8, "length": 32, "method": "gptq"}


def ends(artifact: Artifact) -> list[str]:
    return [part.name for part in artifact.plan.parts if part.block is None]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["llama", "untied", "gemma3"])
def test_they_have_bits_by_what_they_are_worth(model_of: Any, text: Path, tmp_path: Path, family: str) -> None:
    result = compress(model_of(family), tmp_path / "a", budget="6bits", data=text, **SMALL)
    artifact, ready = result.artifact, prepare(model_of(family), "gptq", "6bits")
    assert ends(artifact)
    for name in ends(artifact):
        spec = artifact.plan.specs[name]
        assert isinstance(spec, RowSpec)
        assert artifact.planes(name).nbytes <= ready.plan.specs[name].plan(spec.rows).nbytes
    assert artifact.bits <= 6 and artifact.nbytes <= ready.nbytes
    assert verify(artifact.folder).digest == artifact.digest
    packed = Model.open(artifact)
    for part in packed.parts:
        assert torch.equal(packed.read_rows(part, 5, 70), artifact.planes(part.name).dequantize()[5:70])


@pytest.mark.usefixtures("here")
def test_classes_of_a_trellis_run(model_of: Any, text: Path, tmp_path: Path) -> None:
    options = SMALL | {"method": "trellis", "options": {"beam": 8}}
    folder = compress(model_of("llama"), tmp_path / "a", budget="6bits", data=text, **options).artifact.folder
    artifact = Artifact.open(folder)
    forms = [spec.formats if isinstance(spec, RowSpec) else (spec,) for spec in artifact.plan.specs.values()]
    assert any(len(one) > 1 and "trellis" in {form.kind for form in one} for one in forms)
    packed, dense = load(folder, activations="fp32"), load(folder, dense=True)
    ids = torch.arange(20)
    with torch.no_grad():
        wanted = dense.module(ids[None]).logits[0]
        assert float((packed.module(ids[None]).logits[0] - wanted).norm() / wanted.norm()) < 1e-4
    decoder = native_decoder(packed.module, Settings("fp32", "bf16"))
    assert decoder is not None
    logits = decoder.start(32).push(ids.tolist(), 20)
    assert float((logits - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.usefixtures("here")
def test_rows_that_are_read_have_more_bits(model_of: Any, text: Path, tmp_path: Path) -> None:
    artifact = compress(model_of("untied"), tmp_path / "a", budget="6bits", data=text, **SMALL).artifact
    name = ends(artifact)[0]
    packed: Any = artifact.planes(name)
    from tailorbird.pipeline.calibration import calibration

    job = prepare(model_of("untied"), "gptq", "6bits")
    batches = calibration(job, text, SMALL["samples"], SMALL["length"], 0).batches
    seen = torch.unique(torch.cat([batch.reshape(-1) for batch in batches]))
    unseen = torch.ones(len(packed.classes), dtype=torch.bool)
    unseen[seen] = False
    assert packed.classes[seen].min() >= packed.classes[unseen].max()


@pytest.mark.usefixtures("here")
def test_a_written_plan_gives_the_same_weights_again(model_of: Any, text: Path, tmp_path: Path) -> None:
    first = compress(model_of("llama"), tmp_path / "a", budget="6bits", data=text, **SMALL).artifact
    plan = Plan.from_json(json.loads((tmp_path / "a" / "plan.json").read_text()))
    again = compress(model_of("llama"), tmp_path / "b", data=text, plan=plan, **SMALL).artifact
    assert again.manifest.weights == first.manifest.weights


@pytest.mark.usefixtures("here")
def test_without_them_all_rows_are_alike(model_of: Any, text: Path, tmp_path: Path) -> None:
    artifact = compress(
        model_of("llama"), tmp_path / "a", budget="6bits", data=text, options={"rows": False}, **SMALL
    ).artifact
    assert not any(isinstance(spec, RowSpec) for spec in artifact.plan.specs.values())
    assert prepare(model_of("llama"), "gptq", "6bits", {"rows": False}).lead == 0
    assert prepare(model_of("llama"), "rtn", "6bits").lead == 0
    assert prepare(model_of("llama"), "gptq", "6bits", target="gguf").lead == 0
