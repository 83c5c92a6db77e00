"""A small artifact of a language model, with every kind of array a packed weight can have."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tailorbird.artifact.verify as verifying
from tailorbird.formats import LevelSpec, PlaneSpec, SumSpec, TrellisSpec
from tailorbird.method import Method
from tailorbird.methods import methods
from tailorbird.methods.billm import BiLLM
from tailorbird.methods.gptq import GPTQ
from tailorbird.methods.nf4 import NF4
from tailorbird.methods.trellis import Trellis
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
    options = {"act_order": True, "rows": False}  # formats are as the plan says
    plan = prepare(folder / "model", "gptq", "4bits", options).plan.to_json()
    for number, entry in enumerate(plan["parts"]):
        entry["format"]["offset"] = ("integer", "float", "none")[number % 3]
        entry["format"]["scale"] = ("u8", "fp16")[number % 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        compress(folder / "model", folder / "out", plan=Plan.from_json(plan), data=text, samples=8, length=32)
    yield folder / "out"


class Mixed(Method):
    """Fits every kind of format a plan may hold."""

    name, title, paper = "mixed", "for tests", "none"
    needs = frozenset({"gram"})
    kinds = frozenset({PlaneSpec.kind, SumSpec.kind, LevelSpec.kind, TrellisSpec.kind})

    def fit(self, weight: Any, stats: Any, spec: Any) -> Any:
        """By the method that has this kind."""
        fitters = {PlaneSpec.kind: GPTQ, SumSpec.kind: BiLLM, LevelSpec.kind: NF4, TrellisSpec.kind: Trellis}
        kind = fitters[spec.kind]
        return kind().fit(weight, stats, spec)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a valid artifact with weights of every kind of format; nobody may change it."""
    tiny = runpy.run_path(str(TINY))
    folder = tmp_path_factory.mktemp("family")
    tiny["make_model"]("untied", folder / "model")
    text = tiny["make_text"](folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        patch.setitem(methods(), "mixed", Mixed)
        plan = prepare(folder / "model", "mixed", "4bits").plan.to_json()
        for number, entry in enumerate(plan["parts"]):
            cols = entry["shape"][1]
            sums = BiLLM(group_size=32, shift=number % 2 == 0).spec(Plan.from_json(plan).parts[number], 1).to_json()
            levels = LevelSpec(3 + number % 3, cols // 16, 16, "normal", ("u8", "fp16")[number % 2]).to_json()
            stands = entry["role"] in ("embedding", "head")
            paths = TrellisSpec((3 + number % 3,) * (cols // 16), 16, ("u8", "fp16")[number % 2]).to_json()
            entry["format"] = (levels, entry["format"] if stands else sums, entry["format"], paths)[number % 4]
        compress(folder / "model", folder / "out", plan=Plan.from_json(plan), data=text, samples=8, length=32)
    yield folder / "out"
