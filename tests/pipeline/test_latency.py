"""A budget in milliseconds, on devices that are plain arithmetic."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tailorbird.artifact.verify as verifying
import tailorbird.pipeline.allocation as room
import tailorbird.pipeline.latency as latency
import tailorbird.pipeline.refine as refining
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import BudgetError, UsageError
from tailorbird.pipeline import Prepared, compress, prepare
from tailorbird.pipeline.allocation import measured_table, solved
from tailorbird.pipeline.calibration import weighing
from tailorbird.pipeline.latency import again, hollow, products, total
from tailorbird.pipeline.reporting import report_of
from tailorbird.runtime.costs import Milliseconds
from tailorbird.runtime.pace import Timed
from tailorbird.runtime.profile import Entry, Profile


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Five bits cost as much as eight; other bits what they weigh."""
    cost = {bits: (8 if bits == 5 else bits) / 8 for bits in range(1, 9)}
    entries = [
        Entry(rows, cols, bits, 1, 1e-4 * rows * cols * cost[bits])
        for rows, cols in ((64, 64), (64, 128), (320, 64))
        for bits in cost
    ]
    Profile("a machine", "none", 1, 1e9, 7.0, 64, entries).write(tmp_path / "device.json")
    return tmp_path / "device.json"


def planned(model: Path, text: Path, folder: Path, *budget: str) -> Prepared:
    job = prepare(model, "rtn", budget, allocate="measured")
    return solved(job, measured_table(job, weighing(job, text, 8, 32, 0), folder))


def took(job: Prepared) -> float:
    """A token on that device: products are slower than they were in the profile, and not all there is."""
    assert job.profile is not None
    return 3.0 + 1.3 * total(job, Milliseconds(job.profile))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "measured_here", lambda job, cost: lambda planned: Timed(took(planned)))


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)


@pytest.mark.usefixtures("here")
def test_a_token_takes_what_was_asked(model_of: Any, text: Path, tmp_path: Path, device: Path) -> None:
    score = tmp_path / "score"
    for asked in (7.0, 9.0, 11.0):
        job = planned(model_of("llama"), text, score, f"{asked}ms/token@{device}")
        assert 0.95 * asked <= took(job) <= asked
        assert not any(5 in spec.bits for spec in job.plan.specs.values())
        (score / "products.json").unlink()
    assert took(planned(model_of("llama"), text, score, f"1000ms@{device}")) < 20


@pytest.mark.usefixtures("here")
def test_bytes_and_milliseconds_hold_at_once(model_of: Any, text: Path, tmp_path: Path, device: Path) -> None:
    job = planned(model_of("llama"), text, tmp_path / "score", f"9ms@{device}", "60kB")
    assert took(job) <= 9 and job.nbytes <= 60_000


@pytest.mark.usefixtures("here")
def test_too_fast_names_the_fastest(model_of: Any, text: Path, tmp_path: Path, device: Path) -> None:
    with pytest.raises(BudgetError, match="the fastest possible") as caught:
        planned(model_of("llama"), text, tmp_path / "score", f"2ms@{device}")
    found = re.search(r"ask for ([\d.]+)ms", caught.value.hint)
    assert found is not None and "bytes" not in caught.value.hint
    assert took(planned(model_of("llama"), text, tmp_path / "score", f"{found[1]}ms@{device}")) <= float(found[1])


def slower(job: Prepared, cost: Milliseconds) -> Any:
    """What was fitted takes a fifth longer than its plan did."""
    return lambda fitted: Timed(1.2 * took(fitted), 1.5)


@pytest.mark.usefixtures("here", "verified")
def test_the_finished_model_is_measured_and_its_plan_solved_again(
    model_of: Any, text: Path, tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "measured_here", slower)
    given: dict[str, Any] = {"method": "rtn", "budget": f"9ms@{device}", "data": text, "samples": 8, "length": 32}
    found = compress(model_of("llama"), tmp_path / "a", **given)
    job = prepare(model_of("llama"), "rtn", given["budget"])
    assert job.allocate == "measured"
    assert found.milliseconds == pytest.approx(1.2 * took(job.planned(found.artifact.plan.specs)))
    assert 7 < found.milliseconds <= 9
    again = compress(model_of("llama"), tmp_path / "a", **given, resume=True)
    assert again.milliseconds == found.milliseconds and again.slower == found.slower == 1.5
    report = report_of(found, open_checkpoint(model_of("llama")))
    assert (report["milliseconds"], report["slower"]) == (found.milliseconds, 1.5)


@pytest.mark.usefixtures("verified")
def test_plans_and_what_was_fitted_are_told_at_the_pace_of_the_profile(
    model_of: Any, text: Path, tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device itself, which is slower than when it was profiled, and slower still when the model is fitted."""
    slow = [1.2]

    def later(*given: Any) -> Any:
        slow[0] = 1.5
        return latency.measured_here(*given)

    monkeypatch.setattr(refining, "measured_here", later)
    monkeypatch.setattr(latency, "processor", lambda: "a machine")
    monkeypatch.setattr(latency, "set_threads", lambda threads: None)
    monkeypatch.setattr(latency, "hollow", lambda job: job)
    monkeypatch.setattr(latency, "Pace", lambda: lambda: slow[0] * 7.0)
    monkeypatch.setattr(latency, "once", lambda job, tokens: slow[0] * took(job))
    given: dict[str, Any] = {"data": text, "samples": 8, "length": 32}
    found = compress(model_of("llama"), tmp_path / "a", method="rtn", budget=f"9ms@{device}", **given)
    job = prepare(model_of("llama"), "rtn", f"9ms@{device}")
    assert slow == [1.5] and 0.95 * 9 <= found.milliseconds <= 9 and found.slower == pytest.approx(1.5)
    assert found.milliseconds == pytest.approx(took(job.planned(found.artifact.plan.specs)))


@pytest.mark.usefixtures("here", "verified")
def test_an_artifact_that_stays_too_slow_is_an_error(
    model_of: Any, text: Path, tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "measured_here", lambda job, cost: lambda fitted: Timed(20.0))
    with pytest.raises(BudgetError, match="the artifact takes 20 ms a token, the budget is 9") as caught:
        compress(
            model_of("llama"), tmp_path / "a", method="rtn", budget=f"9ms@{device}", data=text, samples=8, length=32
        )
    assert "20ms/token" in caught.value.hint and (tmp_path / "a" / "manifest.json").exists()


def test_steep_steps_are_searched_between_two_plans() -> None:
    """Plans in steps, a token's time twenty times as steep as its products': a line's slope alone would stand still."""

    def plan(limit: float) -> Any:
        part = SimpleNamespace(name="all")
        return SimpleNamespace(
            plan=SimpleNamespace(parts=[part], specs={"all": math.floor(min(limit, 4.0) * 200) / 200})
        )

    def measure(job: Any) -> Timed:
        spent = float(job.plan.specs["all"])
        return Timed(spent + 20 * max(0.0, spent - 3.2))

    limit = products(6.0, lambda part, spec: spec, plan, plan(1.0), measure)  # type: ignore[arg-type,return-value]
    assert 0.95 * 6.0 <= measure(plan(limit)).milliseconds <= 6.0


def test_limits_of_products_after_measuring() -> None:
    assert again(10, 5.0, 5.0, 9.7) == 5.0
    assert again(10, math.inf, 5.0, 7.0) == math.inf
    assert again(10, 5.0, 5.0, 11.0) < 5.0 < again(10, 5.0, 5.0, 9.0)


def test_a_rotated_model_is_timed_with_the_head_it_has(
    model_of: Any, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(model_of("llama"), "rtn", "4bits", {"rotate": "hadamard"})
    ends = {part.name: job.spec(part, 8 if part.role == "head" else 4) for part in job.model.parts}
    loaded = hollow(job.planned(ends))
    assert "lm_head" in ends and loaded.nbytes > hollow(prepare(model_of("llama"), "rtn", "4bits")).nbytes
    assert len(next(loaded.steps([1, 2, 3], 1))) == 320


def test_ohq_weighs_a_profile_without_a_budget_of_milliseconds(
    model_of: Any, text: Path, tmp_path: Path, device: Path
) -> None:
    found = []
    for profile in (None, device):
        job = prepare(model_of("llama"), "rtn", "4bits", allocate="ohq", profile=profile)
        table = measured_table(job, weighing(job, text, 8, 32, 0), tmp_path / "score")
        assert (table.times is None) == (profile is None) and math.isinf(table.products)
        found.append(solved(job, table))
        assert 3.88 < found[-1].bits <= 4
    assert found[0].plan.specs != found[1].plan.specs
    cost = Milliseconds(Profile.read(device))
    assert total(found[1], cost) < total(found[0], cost)
    with pytest.raises(UsageError, match="what ohq weighs"):
        prepare(model_of("llama"), "rtn", "4bits", allocate="measured", profile=device)


def test_another_processor_s_profile_is_all_there_is(model_of: Any, text: Path, tmp_path: Path, device: Path) -> None:
    job = planned(model_of("llama"), text, tmp_path / "score", f"4ms@{device}")
    assert job.profile is not None
    assert 3.8 <= total(job, Milliseconds(job.profile)) <= 4
