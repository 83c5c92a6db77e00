"""The simple allocation: within the limit, close to it, and blocks first."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.allocate.rules import Rules
from tailorbird.allocate.uniform import uniform
from tailorbird.anatomy.part import Part
from tailorbird.artifact.targets import find
from tailorbird.errors import BudgetError
from tailorbird.formats import BitPlanes, PlaneSpec, Spec
from tailorbird.formats.ggml.exact import exact_type


@cache
def cost(part: Part, spec: PlaneSpec) -> int:
    return BitPlanes.plan(part.shape[0], spec).nbytes


def spec_of(part: Part, bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, part.shape[1], 8)


def total(parts: list[Part], specs: dict[str, PlaneSpec]) -> int:
    return sum(cost(part, specs[part.name]) for part in parts)


def at(parts: list[Part], bits: int) -> int:
    return total(parts, {part.name: spec_of(part, bits) for part in parts})


@st.composite
def models(draw: st.DrawFn) -> list[Part]:
    """Parts of some blocks, with or without an embedding and a head."""
    shapes = st.tuples(st.integers(1, 30), st.integers(1, 5).map(lambda groups: 8 * groups))
    inner = [Part(f"b{i}", shape, "mlp", i) for i, shape in enumerate(draw(st.lists(shapes, min_size=1, max_size=12)))]
    ends = [Part(name, draw(shapes), name) for name in draw(st.sets(st.sampled_from(["embedding", "head"])))]  # type: ignore[arg-type]
    return ends + inner


@given(models(), st.floats(0, 1))
def test_never_above_the_limit(parts: list[Part], share: float) -> None:
    low, high = at(parts, 1), at(parts, 8)
    limit = int(low + share * 1.2 * (high - low))
    specs = uniform(parts, spec_of, cost, limit)
    assert total(parts, specs) <= limit
    base = max(bits for bits in range(1, 9) if at(parts, bits) <= limit)
    for part in parts:
        assert base <= min(specs[part.name].bits) and max(specs[part.name].bits) <= min(8, base + 2)
        assert specs[part.name].group_size == 8


@given(models(), st.integers(1, 10**6))
def test_the_error_names_the_smallest(parts: list[Part], short: int) -> None:
    smallest = at(parts, 1)
    with pytest.raises(BudgetError) as caught:
        uniform(parts, spec_of, cost, smallest - short)
    assert re.search(rf"\b{smallest} bytes", caught.value.message)
    assert str(short) in caught.value.hint
    assert total(parts, uniform(parts, spec_of, cost, smallest)) == smallest


@pytest.mark.parametrize("ends", [0, 0.2, 0.6])
@pytest.mark.parametrize("bits", [1.7, 2.5, 3.0, 4.5, 6.3, 7.9])
def test_small_parts_fill_the_budget(bits: float, ends: float) -> None:
    inner = [Part(f"b{i}", (16, 64), "mlp", i) for i in range(200)]
    rows = int(ends / (1 - ends) * 16 * 200)
    parts = inner + ([Part("embedding", (rows, 64), "embedding")] if rows else [])
    numel = sum(part.numel for part in parts)
    limit = int(bits * numel / 8) + at(parts, 1) - numel // 8
    if limit < at(parts, 8):
        assert 0.99 * limit <= total(parts, uniform(parts, spec_of, cost, limit)) <= limit


def test_everything_at_eight_bits_where_there_is_room() -> None:
    parts = [Part("e", (10, 16), "embedding"), Part("b", (10, 16), "mlp", 0)]
    specs = uniform(parts, spec_of, cost, 10**9)
    assert all(set(spec.bits) == {8} for spec in specs.values())


def test_blocks_come_before_embedding_and_head() -> None:
    parts = [Part("e", (40, 16), "embedding"), Part("b", (10, 16), "mlp", 0), Part("h", (40, 16), "head")]
    step = cost(parts[1], spec_of(parts[1], 4)) - cost(parts[1], spec_of(parts[1], 3))
    specs = uniform(parts, spec_of, cost, at(parts, 3) + step)
    assert set(specs["b"].bits) == {4} and set(specs["e"].bits) == set(specs["h"].bits) == {3}


def test_an_embedding_left_with_too_little_comes_before_blocks_that_lead() -> None:
    parts = [Part("e", (400, 64), "embedding"), Part("b", (100, 64), "mlp", 0)]
    base = total(parts, {"e": spec_of(parts[0], 1), "b": spec_of(parts[1], 2)})
    more = {part.name: cost(part, spec_of(part, 3)) - cost(part, spec_of(part, 2)) for part in parts}
    for room, least, bits in (
        (more["b"], 1.25, {2}),  # all of it would go to the block
        (more["e"] // 2 + more["b"], 1.25, {3}),  # half a bit is left for the embedding
        (more["e"] // 2 + more["b"], 1.75, {2}),  # too little: it takes the other half too
    ):
        specs = uniform(parts, spec_of, cost, base + room, lead=1, least=least)
        assert set(specs["b"].bits) == bits and set(specs["e"].bits) == {1, 2}
        assert total(parts, specs) <= base + room
    # Without a lead too; unless nobody says what is too little.
    room = cost(parts[0], spec_of(parts[0], 2)) - cost(parts[0], spec_of(parts[0], 1))
    for least, full in ((2, True), (0, False)):
        specs = uniform(parts, spec_of, cost, at(parts, 1) + room, least=least)
        assert (set(specs["e"].bits) == {2}) == full and (set(specs["b"].bits) == {2}) != full


def test_tied_parts_are_raised_together() -> None:
    parts = [Part(f"{i}.{leaf}", (16, 64), "attention", i) for i in range(3) for leaf in "qkv"]
    ties = [tuple(f"{i}.{leaf}" for leaf in "qkv") for i in range(3)]
    rules = Rules(ties=ties)
    for extra in range(0, at(parts, 4) - at(parts, 3), 37):
        limit = at(parts, 3) + extra
        specs = uniform(parts, spec_of, cost, limit, rules)
        assert total(parts, specs) <= limit
        assert all(len({specs[name] for name in tie}) == 1 for tie in ties)
    assert len({spec.bits for spec in specs.values()}) == 2  # some layers were raised, some not


@given(models(), st.floats(0, 1))
def test_rules_are_obeyed(parts: list[Part], share: float) -> None:
    """A runtime of even widths and no mixed groups: what is nearest costs more than asked, and still fits."""

    def carried(part: Part, spec: PlaneSpec) -> PlaneSpec:
        top = max(spec.bits)
        return PlaneSpec.uniform(top + top % 2, part.shape[1], 8)

    def even(part: Part, bits: int) -> PlaneSpec:
        return carried(part, spec_of(part, bits))

    low, high = at(parts, 2), at(parts, 8)
    limit = int(low + share * 1.2 * (high - low))
    rules = Rules(carried)
    specs = uniform(parts, even, cost, limit, rules)
    assert total(parts, specs) <= limit
    assert all(rules.allows(part, specs[part.name]) for part in parts)
    widths = sorted({spec.bits[0] for spec in specs.values()})
    assert widths[-1] - widths[0] <= 4


def test_blocks_can_lead_the_ends() -> None:
    parts = [
        Part("embedding", (64, 32), "embedding"),
        *(Part(f"b{i}", (16, 32), "mlp", i) for i in range(4)),
        Part("head", (64, 32), "head"),
    ]
    for limit in (at(parts, 2), at(parts, 3), at(parts, 4) + 100):
        specs = uniform(parts, spec_of, cost, limit, lead=2)
        assert total(parts, specs) <= limit
        inner = [max(specs[part.name].bits) for part in parts if part.block is not None]
        ends = [min(specs[part.name].bits) for part in parts if part.block is None]
        assert min(inner) >= max(ends) and min(inner) > min(ends)
    assert uniform(parts, spec_of, cost, at(parts, 1), lead=2) == {part.name: spec_of(part, 1) for part in parts}
    assert uniform(parts, spec_of, cost, at(parts, 8), lead=2) == {part.name: spec_of(part, 8) for part in parts}


@pytest.mark.parametrize("bits", [4.2, 4.4, 4.498, 4.6])
def test_a_target_of_few_widths_leaves_no_embedding_behind(bits: float) -> None:
    """Sizes as in Gemma 3 270M, of which most is the embedding; 4 bits in llama.cpp's blocks are 4.5 with scales."""
    parts = [Part("e", (262144, 640), "embedding")]
    parts += [Part(f"{i}.{n}", (rows, 640), "mlp", i) for i in range(18) for n, rows in enumerate((1024, 2048, 2048))]
    rules = find("gguf-exact").rules(parts)

    def spec_of(part: Part, bits: int) -> Spec:
        return rules.chosen(part, PlaneSpec.uniform(bits, 640, 128))

    limit = int(bits * sum(part.numel for part in parts) / 8)
    specs = uniform(parts, spec_of, lambda part, spec: spec.plan(part.shape[0]).nbytes, limit, rules, least=1.25)
    used = sum(specs[part.name].plan(part.shape[0]).nbytes for part in parts)
    assert 0.99 * limit < used <= limit
    assert {exact_type(spec).name for spec in specs.values()} <= {"Q4_0", "Q5_0"}  # type: ignore[union-attr, arg-type]
    assert set(specs["e"].bits) == {4}  # type: ignore[attr-defined]
