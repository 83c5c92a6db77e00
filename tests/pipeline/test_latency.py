"""A budget in milliseconds, on devices that are plain arithmetic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tailorbird.pipeline.allocation as room
from tailorbird.errors import BudgetError
from tailorbird.pipeline import Prepared, prepare
from tailorbird.pipeline.allocation import measured_table, solved
from tailorbird.pipeline.calibration import weighing
from tailorbird.pipeline.latency import total
from tailorbird.runtime.costs import Milliseconds
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
    Profile("a machine", "none", 1, 1e9, 64, entries).write(tmp_path / "device.json")
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
    monkeypatch.setattr(room, "measured_here", lambda job, cost: took)


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
    assert found is not None
    assert took(planned(model_of("llama"), text, tmp_path / "score", f"{found[1]}ms@{device}")) <= float(found[1])


def test_another_processor_s_profile_is_all_there_is(model_of: Any, text: Path, tmp_path: Path, device: Path) -> None:
    job = planned(model_of("llama"), text, tmp_path / "score", f"4ms@{device}")
    assert job.profile is not None
    assert 3.8 <= total(job, Milliseconds(job.profile)) <= 4
