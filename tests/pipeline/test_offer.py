"""What is offered in place of an export that changes weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird.artifact import Artifact, targets
from tailorbird.artifact.reencode import Reencoded
from tailorbird.errors import BudgetError
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.offer import solved

OPTIONS = {"beam": 8}


@pytest.fixture(scope="module")
def trellis(model_of: Any, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import tailorbird.artifact.verify as verifying

    out = tmp_path_factory.mktemp("offer") / "a"
    job: dict[str, Any] = {"method": "trellis", "budget": "3bits", "options": OPTIONS, "samples": 8, "length": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        return Artifact.open(compress(model_of("llama"), out, data=text, **job).artifact.folder)


def test_both_sizes_and_both_losses(trellis: Artifact, model_of: Any) -> None:
    """3 bits are too few for the target: the plan is solved for the smallest budget it can keep."""
    rules = targets.find("gguf-exact").rules(trellis.plan.parts)
    source = Reencoded.under(trellis, rules)
    offer = solved("gguf-exact", trellis, source, model_of("llama"))
    job = prepare(model_of("llama"), "trellis", offer.raised, OPTIONS, target="gguf-exact")
    assert offer.nbytes == (source.plan.code_bytes, job.plan.code_bytes)
    assert f"--budget {offer.raised}" in offer.command and "--target gguf-exact" in offer.command
    with pytest.raises(BudgetError):
        less = f"{float(offer.raised.removesuffix('bits')) - 0.002:.3f}bits"
        prepare(model_of("llama"), "trellis", less, OPTIONS, target="gguf-exact")
    assert offer.errors is not None and 0 < offer.errors[1] < offer.errors[0] < 0.5
    for figure in (*(f"{n:,} bytes" for n in offer.nbytes), *(f"{e:.2%}" for e in offer.errors), offer.raised):
        assert figure in offer.comparison
    worse = solved("gguf-exact", trellis, source, model_of("llama"), lost=0.01)
    assert worse.errors is not None and worse.errors[0] ** 2 == pytest.approx(offer.errors[0] ** 2 + 0.01)


def test_without_the_original_there_is_only_the_command(trellis: Artifact, tmp_path: Path) -> None:
    for original in (None, tmp_path / "nothing"):
        offer = solved("gguf-exact", trellis, trellis, original)
        assert offer.nbytes is None and offer.comparison == "" and "--method trellis" in offer.command
