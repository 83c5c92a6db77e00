"""A small artifact of a language model, with every kind of array a packed weight can have."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailorbird.artifact.verify as verifying
from tailorbird.pipeline import compress, prepare
from tailorbird.plan import Plan

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.py"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a valid artifact; nobody may change it."""
    tiny = runpy.run_path(str(TINY))
    folder = tmp_path_factory.mktemp("base")
    tiny["make_model"]("llama", folder / "model")
    text = tiny["make_text"](folder / "text.txt")
    options = {"act_order": True}
    plan = prepare(folder / "model", "gptq", "4bits", options).plan.to_json()
    for number, entry in enumerate(plan["parts"]):
        entry["format"]["offset"] = ("integer", "float", "none")[number % 3]
        entry["format"]["scale"] = ("u8", "fp16")[number % 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        compress(folder / "model", folder / "out", plan=Plan.from_json(plan), data=text, samples=8, length=32)
    yield folder / "out"
