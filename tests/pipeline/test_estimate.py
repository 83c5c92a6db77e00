"""The estimate: counted work over measured speed; no figure of it depends on a clock being right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tailorbird.measure.block import Transformed
from tailorbird.methods.awq import AWQ
from tailorbird.pipeline import estimate as room
from tailorbird.pipeline import footprint, handling, latency, prepare, trial
from tailorbird.pipeline.estimate import estimate, smallest
from tailorbird.pipeline.handling import Handling
from tailorbird.runtime import pace
from tailorbird.runtime.profile import Entry, Profile


def module(width: int = 64, layers: int = 3) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of known speed."""
    monkeypatch.setattr(room, "product_rate", lambda dtype=torch.float32: 1e9 if dtype == torch.float32 else 4e9)
    monkeypatch.setattr(room, "fit_trial", lambda job, like: (1e-6, 1e-9, 1e-12, 1e-12))
    monkeypatch.setattr(room, "handling_trial", lambda job: Handling(1e-9, 2e-9, 3e-9, 0.5, 10**6))
    monkeypatch.setattr(room, "fresh_trial", lambda words: 4.0 + words / 1000)


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
    monkeypatch.setattr(room.dense, "learning", lambda: torch.float32)

    def fit(batches: int, bits: int = 4, **options: object) -> float:
        return estimate(prepare(module(), "autoround", f"{bits}bits", options), 1000, 0, batches).seconds["fit"]

    # 3 for each of 10 steps on a tenth of the data; two operations for a weight and token.
    full = fit(10, iterations=12) - fit(10, iterations=2)
    assert full > 0.9 * 3 * 10 / 10 * 2 * 1000 * 3 * 64**2 / (0.7 * 1e9)
    # Only products are faster in bfloat16, and only few bits bear it.
    monkeypatch.setattr(room.dense, "learning", lambda: torch.bfloat16)
    assert 0.25 * full < fit(10, 4, iterations=12) - fit(10, 4, iterations=2) < 0.6 * full
    assert fit(10, 9, iterations=12) - fit(10, 9, iterations=2) == pytest.approx(full, rel=0.1)
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
    assert set(found.seconds) == {"measure", "fit", "pack", "score", "verify", "evaluate"}
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


@pytest.mark.usefixtures("steady")
def test_milliseconds_take_time_and_memory_where_they_are_measured(
    model_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [Entry(64, 64, bits, 1, 0.1 * bits) for bits in range(1, 9)]
    found = []
    for machine in ("another", "this"):
        monkeypatch.setattr(latency, "processor", lambda: "this")
        Profile(machine, "none", 1, 1e9, 7.0, 64, entries).write(tmp_path / f"{machine}.json")
        job = prepare(model_of("llama"), "rtn", f"9ms@{tmp_path / machine}.json")
        found.append(estimate(job, 1000))
    turns = 1e-3 * room.DECODED * pace.TURNS
    assert found[1].seconds["score"] > found[0].seconds["score"] + turns * (9 * pace.TOKENS + 7)
    assert found[1].memory_bytes > pace.NBYTES > found[0].memory_bytes


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
    monkeypatch.setattr(footprint, "SPILL_BYTES", 4 * 512 * width - 1)
    assert estimate(plain, 512).disk_bytes == alone + 4 * 512 * width


@pytest.mark.usefixtures("steady")
def test_a_transform_takes_its_search(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, searching = (prepare(model_of("untied"), method, "5bits") for method in ("gptq", "awq"))
    blocks = len(plain.model.blocks)
    work = sum(part.numel for part in plain.plan.parts if part.block == 0)
    monkeypatch.setattr(room, "block_trial", lambda job, length: trial.BlockTrial(3.0, 0.01, 0.02, work))
    monkeypatch.setattr(room, "transform_trial", lambda job, length: 5.0)
    without, found = estimate(plain, 1000).seconds, estimate(searching, 1000).seconds
    assert found["measure"] == pytest.approx(without["measure"])
    assert found["fit"] - without["fit"] == pytest.approx(blocks * 5.0)


def test_the_trial_of_a_transform_runs_a_few_ratios(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(model_of("llama"), "awq", "5bits")
    tried: list[int] = []

    def transform(self: AWQ, block: Any) -> Transformed:
        tried.append(self.grid)
        return Transformed()

    monkeypatch.setattr(AWQ, "transform", transform)
    monkeypatch.setattr(trial, "timed", lambda work, runs: float(bool(work())))
    assert trial.transform_trial(job, 16) == pytest.approx((20 + 1) / (3 + 1)) and tried == [3]
    assert all(parameter.is_meta for parameter in job.model.module.get_submodule(job.model.blocks[0]).parameters())
    assert AWQ(grid=2).shortened() == (AWQ(grid=2), 1.0)


@pytest.mark.usefixtures("steady")
def test_only_methods_that_decide_by_inputs_compare_outputs() -> None:
    wide = nn.Sequential(nn.Linear(64, 4096), nn.Linear(4096, 64))
    gptq, awq, slim = (estimate(prepare(wide, name, "5bits"), 64).memory_bytes for name in ("gptq", "awq", "slim-llm"))
    assert awq == gptq and slim - gptq == 3 * 4 * 1024 * 4096


@pytest.mark.usefixtures("steady")
def test_weights_are_read_written_and_verified(model_of: Any) -> None:
    job = prepare(model_of("untied"), "rtn", "5bits")
    parts = job.plan.parts
    inner = sum(part.numel for part in parts if part.block is not None)
    words = max(part.shape[0] for part in parts if part.role == "embedding")
    verify = 4 + words / 1000 + 2e-9 * job.plan.numel + 3e-9 * inner
    found = estimate(job, 512).seconds
    assert found["verify"] == pytest.approx(verify)
    # Every file waits for the disk, however small it is.
    assert found["pack"] == 0.5 * len(job.pieces) and Handling(0, 0, 0, 0.5, 100).writing(3, 1000) == 5


@pytest.mark.parametrize("method", ["rtn", "trellis", "billm", "nf4"])
def test_the_way_of_a_weight_is_gone(method: str, model_of: Any) -> None:
    found = handling.handling_trial(prepare(model_of("llama"), method, "5bits"))
    assert min(found.kept, found.checked, found.unpacked) > 0


def test_a_fresh_process_takes_longer_with_more_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "timed", lambda work: float(work().returncode == 0))
    assert handling.fresh_trial(0) == handling.IMPORTS
    assert handling.fresh_trial(10**6) > handling.fresh_trial(10**5) > handling.IMPORTS


def test_the_method_is_tried_on_the_model_s_weights() -> None:
    narrow, tall = nn.Linear(64, 50), nn.Linear(64, 4096)
    job = prepare(nn.Sequential(narrow), "rtn", "8bits")
    weights = trial._weights(job, job.plan.parts[0], 128)
    whole = narrow.weight.detach()
    assert weights.shape == (128, trial.TRIAL_COLS)
    assert weights.flatten()[: whole.numel()].equal(whole.flatten())
    job = prepare(nn.Sequential(tall), "rtn", "4bits")
    assert trial._weights(job, job.plan.parts[0], 2).view(-1, 64).equal(tall.weight.detach()[2040:2056])
