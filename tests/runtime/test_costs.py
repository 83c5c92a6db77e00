"""Costs read off a profile, keys and values counted, and plans in form only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailorbird.anatomy import Part
from tailorbird.errors import DataError, ModelError
from tailorbird.formats import PlaneSpec, RowSpec
from tailorbird.kernels.native import extension
from tailorbird.runtime.costs import Milliseconds, cache_bytes
from tailorbird.runtime.decoder import Settings
from tailorbird.runtime.hollow import Hollow
from tailorbird.runtime.load import load
from tailorbird.runtime.profile import Entry, Profile
from tailorbird.runtime.speed import milliseconds


def profile(*entries: Entry) -> Profile:
    return Profile("a machine", "none", 1, 1e9, 7.0, 64, entries)


def part(rows: int, cols: int, role: Any = "mlp", **more: Any) -> Part:
    return Part("p", (rows, cols), role, **more)


def spec(bits: int, cols: int = 64) -> PlaneSpec:
    return PlaneSpec.uniform(bits, cols, 32)


def test_measured_shapes_cost_what_was_measured() -> None:
    cost = Milliseconds(profile(Entry(64, 64, 4, 1, 0.5), Entry(64, 64, 4, 8, 99.0), Entry(128, 64, 4, 1, 0.8)))
    assert cost(part(64, 64), spec(4)) == 0.5
    assert cost(part(128, 64), spec(4)) == 0.8
    assert cost(part(64, 64, uses=3), spec(4)) == 1.5


def test_others_lie_between_by_their_weights() -> None:
    cost = Milliseconds(profile(Entry(64, 64, 4, 1, 0.5), Entry(640, 64, 4, 1, 2.0)))
    assert 0.5 < cost(part(320, 64), spec(4)) < 2.0
    assert cost(part(6400, 64), spec(4)) == pytest.approx(20.0)
    assert cost(part(32, 64), spec(4)) == pytest.approx(0.25)


def test_mixed_rows_cost_the_mean_and_unknown_bits_the_next() -> None:
    cost = Milliseconds(profile(Entry(64, 64, 4, 1, 0.4), Entry(64, 64, 2, 1, 0.2)))
    mixed = PlaneSpec((2, 4), 32)
    assert cost(part(64, 64), mixed) == pytest.approx(0.3)
    assert cost(part(64, 64), spec(3)) == pytest.approx(0.4)


def test_a_looked_up_embedding_costs_nothing() -> None:
    cost = Milliseconds(profile(Entry(64, 64, 4, 1, 0.5)))
    assert cost(part(64, 64, "embedding"), spec(4)) == 0
    assert cost(part(64, 64, "embedding", tied=("head",)), spec(4)) == 0.5


def test_a_profile_without_single_rows_is_refused() -> None:
    with pytest.raises(DataError, match="one row"):
        Milliseconds(profile(Entry(64, 64, 4, 8, 0.5)))


def test_cache_bytes_needs_to_know_the_heads() -> None:
    with pytest.raises(ModelError, match="keys and values"):
        cache_bytes({"num_hidden_layers": 2}, 10)


@pytest.mark.skipif(extension() is None, reason="there are no native kernels")
@pytest.mark.parametrize("cache", ["bf16", "int8"])
def test_cache_bytes_are_the_runtime_s_own(make_packed: Any, cache: Any) -> None:
    model = load(make_packed("gemma3"), cache=cache)
    assert model.decoder is not None
    assert model.decoder.settings == Settings("int8", cache)
    assert model.decoder.start(48).cache.nbytes == cache_bytes(model.config, 48, cache)


def test_a_hollow_model_has_rows_in_classes(make_packed: Any) -> None:
    packed = make_packed("gemma3")
    [end] = [part for part in packed.plan.parts if part.role == "embedding"]
    forms = tuple(PlaneSpec.uniform(bits, end.shape[1], 32) for bits in (1, 6))
    specs = dict(packed.plan.specs) | {end.name: RowSpec((end.shape[0] - 40, 40), forms)}
    plan = replace(packed.plan, specs=specs)
    model = load(Hollow(packed, plan, packed.folder))
    assert len(next(model.steps([1, 2, 3], 1))) == end.shape[0]


def test_a_hollow_model_runs(make_packed: Any) -> None:
    packed = make_packed("gemma3")
    model = load(Hollow(packed, packed.plan, packed.folder))
    assert model.nbytes == load(packed).nbytes
    assert milliseconds(model, tokens=2, runs=1) > 0
