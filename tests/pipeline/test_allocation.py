"""Bits shared out by what they are worth: within every budget, resumable, better than uniform by its own measure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tailorbird.pipeline.refine as refining
from tailorbird.allocate.finer import LEVELS
from tailorbird.artifact import Artifact
from tailorbird.errors import BudgetError, UsageError
from tailorbird.formats import widths
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.allocation import measured_table, solved
from tailorbird.pipeline.calibration import weighing
from tailorbird.score.losses import measured
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.language import Reference

SMALL: dict[str, Any] = {"samples": 8, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", ["llama", "untied", "gemma3", "opt"])
def test_keeps_and_uses_the_budget(model_of: Any, text: Path, tmp_path: Path, family: str) -> None:
    for budget in ("57kB", "4.2bits"):
        out = tmp_path / budget
        found = compress(
            model_of(family), out, method="rtn", budget=budget, allocate="measured", refine=0, data=text, **SMALL
        )
        artifact = found.artifact
        share = artifact.nbytes / 57_000 if budget == "57kB" else artifact.bits / 4.2
        assert 0.97 <= share <= 1
        assert "score" in found.seconds


def test_promises_and_loses_less_than_uniform(model_of: Any, text: Path, tmp_path: Path) -> None:
    job = prepare(model_of("llama"), "rtn", "4.2bits", allocate="measured")
    windows = weighing(job, text, 8, 32, 0)
    table = measured_table(job, windows, tmp_path)
    better = solved(job, table)
    assert better.bits <= 4.2
    assert table.total(better.plan.specs) < table.total(job.plan.specs)
    reference = Reference.of(job.model, weighing(job, text, 8, 32, 1).held_back)
    rounding = Rounding(job.method)
    assert measured(reference, rounding, better.plan.specs) < measured(reference, rounding, job.plan.specs)


def test_above_eight_bits_parts_have_more_where_it_is_worth_most(model_of: Any, text: Path, tmp_path: Path) -> None:
    job = prepare(model_of("llama"), "rtn", "9.2bits", allocate="measured")
    table = replace(measured_table(job, weighing(job, text, 8, 32, 0), tmp_path), worse=False)
    better = solved(job, table)
    assert 0.97 * 9.2 <= better.bits <= 9.2
    assert table.total(better.plan.specs) < table.total(job.plan.specs)
    above = {bits for spec in better.plan.specs.values() for bits in widths(spec) if bits > 8}
    assert above and above <= set(range(9, LEVELS + 1))


def test_a_target_s_rules_hold(model_of: Any, text: Path, tmp_path: Path) -> None:
    job = prepare(model_of("llama"), "rtn", "6bits", allocate="measured", target="gguf")
    found = solved(job, measured_table(job, weighing(job, text, 8, 32, 0), tmp_path))
    assert all(job.rules.allows(part, found.plan.specs[part.name]) for part in job.model.parts)
    assert all(len({found.plan.specs[name] for name in tie}) == 1 for tie in job.rules.ties)


@pytest.mark.usefixtures("here")
def test_refining_keeps_the_better_and_resumes_to_the_same(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "WORTH", -1.0)  # every new plan is worth fitting
    job: dict[str, Any] = {"method": "gptq", "budget": "3.5bits", "allocate": "measured", "refine": 1, "data": text}
    whole = compress(model_of("llama"), tmp_path / "a", **job, **SMALL).artifact.digest
    calls = 0

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(refining, "_kl", stop)
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("llama"), tmp_path / "b", **job, **SMALL)
    kept = sorted(path.name for path in (tmp_path / "b.partial" / "work").iterdir())
    assert kept[:2] == ["attempt-0", "attempt-1"]
    monkeypatch.undo()
    monkeypatch.setattr(refining, "WORTH", -1.0)

    def forbidden(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        raise AssertionError("estimated again")

    monkeypatch.setattr(refining, "realised", forbidden)
    monkeypatch.setattr("tailorbird.artifact.verify._verify_afresh", lambda folder: None)
    again = compress(model_of("llama"), tmp_path / "b", **job, **SMALL, resume=True).artifact
    assert again.digest == whole and calls == 0
    assert not (tmp_path / "b" / "work").exists()


def test_another_request_does_not_resume(model_of: Any, text: Path, tmp_path: Path) -> None:
    job: dict[str, Any] = {"method": "rtn", "allocate": "measured", "data": text, "refine": 0}
    compress(model_of("llama"), tmp_path / "a", budget="4bits", **job, **SMALL)
    with pytest.raises(UsageError, match="budget differ"):
        compress(model_of("llama"), tmp_path / "a", budget="5bits", **job, **SMALL, resume=True)


def test_keys_and_values_count(model_of: Any) -> None:
    plain = prepare(model_of("llama"), "rtn", "60kB")
    ready = prepare(model_of("llama"), "rtn", "60kB", context=32)
    held = 2 * 2 * 2 * 32 * 16 * 2  # keys and values, layers, heads, tokens, numbers, bytes
    assert ready.cached == held and plain.cached == 0
    assert ready.nbytes + held <= 60_000 < plain.nbytes + held
    with pytest.raises(BudgetError, match=f"and {held} of keys and values") as caught:
        prepare(model_of("llama"), "rtn", "30kB", context=32)
    saved = held - prepare(model_of("llama"), "rtn", "60kB", context=32, cache="int8").cached
    assert f"--cache int8 keeps keys and values in {saved} bytes less" in caught.value.hint


def test_what_can_t_be_shared_out(model_of: Any, tiny: Any) -> None:
    with pytest.raises(UsageError, match="no allocator 'best'"):
        prepare(model_of("llama"), "rtn", "4bits", allocate="best")
    with pytest.raises(UsageError, match="no language model"):
        prepare(tiny.make_mlp(), "rtn", "4bits", allocate="measured")
    ready = prepare(model_of("llama"), "rtn", "4bits")
    with pytest.raises(UsageError, match="as fast as it is"):
        prepare(model_of("llama"), "rtn", "4ms@x.json", plan=ready.plan)
    with pytest.raises(UsageError, match="knows no milliseconds"):
        prepare(model_of("llama"), "rtn", "4ms@x.json", allocate="uniform")


@pytest.mark.usefixtures("here")
def test_the_plan_it_wrote_makes_the_same_again(model_of: Any, text: Path, tmp_path: Path) -> None:
    first = compress(
        model_of("llama"), tmp_path / "a", method="rtn", budget="4bits", allocate="measured", data=text, **SMALL
    ).artifact
    second = compress(model_of("llama"), tmp_path / "b", plan=first.plan).artifact
    assert json.loads((first.folder / "plan.json").read_text()) == json.loads((second.folder / "plan.json").read_text())
    planes = [Artifact.open(folder.folder).planes(first.plan.parts[0].name) for folder in (first, second)]
    assert torch.equal(planes[0].dequantize(), planes[1].dequantize())
