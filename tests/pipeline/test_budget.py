"""The budget is a promise: what is written fits it, uses it, or the error names what would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import BudgetError
from tailorbird.pipeline import compress, prepare
from tailorbird.plan import Plan

SMALL = {"samples": 8, "length": 32}


def _limits(budget: tuple[str, ...]) -> tuple[float, float]:
    bits = min((float(b.removesuffix("bits")) for b in budget if b.endswith("bits")), default=1e9)
    return bits, min((float(b.removesuffix("kB")) * 1000 for b in budget if b.endswith("kB")), default=1e18)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["llama", "untied", "gemma3", "opt"])
@pytest.mark.parametrize(
    "budget",
    [("3.2bits",), ("4.75bits",), ("54kB",), ("57kB",), ("4bits", "300kB"), ("8bits", "58kB"), ("90kB", "5bits")],
)
def test_written_keeps_and_uses_the_budget(model_of: Any, tmp_path: Path, family: str, budget: tuple[str, ...]) -> None:
    artifact = compress(model_of(family), tmp_path / "a", method="rtn", budget=budget).artifact
    bits, nbytes = _limits(budget)
    files = [path for path in artifact.folder.iterdir() if path.name in {*artifact.manifest.files, "manifest.json"}]
    assert sum(path.stat().st_size for path in files) == artifact.nbytes
    assert artifact.bits <= bits and artifact.nbytes <= nbytes
    assert max(artifact.bits / bits, artifact.nbytes / nbytes) >= 0.97


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", ["gptq", "slim-llm"])
def test_methods_that_measure_keep_it_too(model_of: Any, text: Path, tmp_path: Path, method: str) -> None:
    options = {"search": 2} if method == "slim-llm" else {"act_order": True}
    artifact = compress(
        model_of("llama"), tmp_path / "a", method=method, budget="50kB", data=text, options=options, **SMALL
    ).artifact
    assert 0.97 * 50_000 <= artifact.nbytes <= 50_000


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["llama", "untied", "opt"])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_smallest_that_is_named_works(model_of: Any, text: Path, tmp_path: Path, family: str, method: str) -> None:
    with pytest.raises(BudgetError, match="the smallest possible with these options is") as caught:
        prepare(model_of(family), method, "1kB")
    for place, options in ((caught.value.message, {}), (caught.value.hint, {"group_size": 1_000_000})):
        found = re.search(r"(\d+) bytes \(([\d.]+) bits", place)
        assert found is not None
        for number, (budget, less) in enumerate(((f"{found[1]}B", int(found[1]) - 1), (f"{found[2]}bits", None))):
            out = tmp_path / f"{len(options)}-{number}"
            artifact = compress(
                model_of(family), out, method=method, budget=budget, options=options, data=text, **SMALL
            ).artifact
            assert artifact.nbytes <= int(found[1])
            if less is not None:
                with pytest.raises(BudgetError):
                    prepare(model_of(family), method, f"{less}B", options)


def test_a_budget_beside_a_plan_must_hold(model_of: Any) -> None:
    ready = prepare(model_of("llama"), "rtn", "5bits")
    again = prepare(model_of("llama"), "rtn", [f"{ready.nbytes}B", "5bits"], plan=ready.plan)
    assert isinstance(again.plan, Plan) and again.nbytes == ready.nbytes
    with pytest.raises(BudgetError, match=r"the plan takes .* bytes"):
        prepare(model_of("llama"), "rtn", f"{ready.nbytes - 1}B", plan=ready.plan)
    with pytest.raises(BudgetError, match=r"the plan takes .* bits"):
        prepare(model_of("llama"), "rtn", "4.5bits", plan=ready.plan)


def test_above_eight_bits_the_longer_plan_is_counted(model_of: Any) -> None:
    """Finer groups are more numbers in plan.json, which must not push the files over the budget."""
    full = prepare(model_of("llama"), "rtn", "8bits")
    most = prepare(model_of("llama"), "rtn", "100bits").nbytes
    for limit in range(full.nbytes + 2000, most, 97):
        assert prepare(model_of("llama"), "rtn", f"{limit}B").nbytes <= limit


def test_no_budget_falls_back_to_one_bit_everywhere(model_of: Any) -> None:
    """Above eight bits a plan is longer, and its files have more arrays, than was allowed for at first: with as much
    less room the same plan may come again."""
    low, high = (prepare(model_of("untied"), "rtn", bits).nbytes for bits in ("8bits", "20bits"))
    for limit in range(low, high, 751):
        assert 0.9 * limit < prepare(model_of("untied"), "rtn", f"{limit}B").nbytes <= limit
