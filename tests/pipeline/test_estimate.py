"""The estimate: counted work over measured speed; no figure of it depends on a clock being right."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tailorbird.pipeline import estimate as room
from tailorbird.pipeline import prepare, trial
from tailorbird.pipeline.estimate import estimate, smallest


def module(width: int = 64, layers: int = 3) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of known speed."""
    monkeypatch.setattr(room, "product_rate", lambda: 1e9)
    monkeypatch.setattr(room, "fit_trial", lambda method, parts: (1e-6, 1e-9, 1e-12, 1e-12))


@pytest.mark.usefixtures("steady")
def test_more_work_takes_longer_and_more_memory() -> None:
    small, large = (prepare(module(width), "gptq", "4bits") for width in (64, 256))
    one, more, bigger = estimate(small, 1000), estimate(small, 4000), estimate(large, 1000)
    assert one.total_seconds == pytest.approx(sum(one.seconds.values()))
    assert more.seconds["measure"] > one.seconds["measure"]
    assert more.seconds["fit"] == one.seconds["fit"]
    assert bigger.seconds["fit"] > one.seconds["fit"]
    assert bigger.memory_bytes > one.memory_bytes and more.memory_bytes > one.memory_bytes
    assert one.seconds["evaluate"] == 0 and estimate(small, 1000, 500).seconds["evaluate"] > 0


@pytest.mark.usefixtures("steady")
def test_a_method_without_calibration_measures_nothing() -> None:
    plain, measured = (estimate(prepare(module(), name, "4bits"), 10**6) for name in ("rtn", "gptq"))
    assert plain.seconds["measure"] < 0.1 * measured.seconds["measure"]
    assert plain.memory_bytes < measured.memory_bytes


@pytest.mark.usefixtures("steady")
def test_learning_takes_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "timed", lambda work: 0.0)

    def fit(batches: int, **options: object) -> float:
        return estimate(prepare(module(), "autoround", "4bits", options), 1000, 0, batches).seconds["fit"]

    # 3 for each of 10 steps on a tenth of the data; two operations for a weight and token.
    assert fit(10, iterations=12) - fit(10, iterations=2) > 0.9 * 3 * 10 / 10 * 2 * 1000 * 3 * 64**2 / (0.75 * 1e9)
    job = prepare(module(), "autoround", "4bits")
    assert job.method.passes(10) == 3 * 100 / 10 + 5
    assert prepare(module(), "omniquant", "4bits", {"augmented": True}).method.passes(10) == 4 * 100 / 10 + 10
    plain = prepare(module(), "gptq", "4bits")
    assert plain.method.passes(10) == 0
    assert estimate(job, 1000, 0, 10).memory_bytes > estimate(plain, 1000, 0, 10).memory_bytes


@pytest.mark.parametrize("method", ["rtn", "gptq", "slim-llm", "autoround"])
def test_the_trial_runs_the_method_itself(method: str) -> None:
    job = prepare(module(), method, "4bits", {"iterations": 2} if method == "autoround" else None)
    found = estimate(job, 512)
    assert set(found.seconds) == {"measure", "fit", "score", "verify", "evaluate"}
    assert all(seconds >= 0 for seconds in found.seconds.values()) and found.memory_bytes > 0
    assert found.to_json()["total_seconds"] == found.total_seconds


@pytest.mark.usefixtures("steady")
def test_sharing_out_takes_time_and_memory_of_its_own(model_of: Any) -> None:
    plain, shared, masked = (
        estimate(prepare(model_of("llama"), "rtn", "5bits", allocate=name), 512)
        for name in ("uniform", "measured", "ohq")
    )
    assert plain.seconds["score"] == 0
    assert shared.seconds["score"] > 0 and masked.seconds["score"] > 0
    assert shared.memory_bytes >= plain.memory_bytes


def test_smallest_is_one_bit_everywhere() -> None:
    job = prepare(module(), "rtn", "5bits")
    least = smallest(job)
    assert {spec.mean_bits for spec in least.plan.specs.values()} == {1}
    assert least.nbytes < job.nbytes and least.bits < job.bits


def test_the_trial_of_a_block_runs_the_block(model_of: Any) -> None:
    job = prepare(model_of("llama"), "gptq", "5bits")
    found = trial.block_trial(job, 16)
    assert found is not None and found.work == sum(part.numel for part in job.plan.parts if part.block == 0)
    assert min(found.read, found.forward, found.measured) >= 0
    assert trial.block_trial(prepare(module(), "gptq", "5bits"), 16) is None


@pytest.mark.usefixtures("steady")
def test_measuring_is_told_from_the_first_block(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(model_of("untied"), "gptq", "5bits")
    blocks = len(job.model.blocks)
    work = sum(part.numel for part in job.plan.parts if part.block == 0)
    monkeypatch.setattr(room, "block_trial", lambda job, length: trial.BlockTrial(3.0, 0.01, 0.02, work))
    # Twice through every block, each time after it was read.
    assert estimate(job, 1000).seconds["measure"] == pytest.approx(blocks * (2 * 3.0 + 1000 * (0.01 + 0.02)))
    learning = prepare(model_of("untied"), "autoround", "5bits")
    assert estimate(learning, 1000).seconds["measure"] == pytest.approx(blocks * (3 * 3.0 + 1000 * (0.02 + 0.02)))


@pytest.mark.usefixtures("steady")
def test_the_disk_holds_every_attempt_and_what_memory_does_not(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, shared = (prepare(model_of("llama"), "gptq", "5bits", allocate=name) for name in ("uniform", "measured"))
    alone = estimate(plain, 512).disk_bytes
    assert plain.nbytes < alone < plain.nbytes + 4096 * len(plain.plan.parts)
    assert estimate(plain, 512, attempts=3).disk_bytes == alone
    one, three = estimate(shared, 512), estimate(shared, 512, attempts=3)
    assert three.seconds["fit"] == pytest.approx(3 * one.seconds["fit"])
    assert three.disk_bytes - one.disk_bytes == 2 * shared.nbytes
    width = plain.plan.parts[0].shape[1]
    monkeypatch.setattr(room, "SPILL_BYTES", 4 * 512 * width - 1)
    assert estimate(plain, 512).disk_bytes == alone + 4 * 512 * width
