"""Plans as JSON: there and back, and whatever else may stand in the file."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.anatomy.part import Part
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.plan import Plan

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A plan of a few parts of any kind."""
    parts, specs = [], {}
    for i in range(draw(st.integers(1, 4))):
        group, count = draw(st.integers(1, 8)), draw(st.integers(1, 5))
        part = Part(
            f"layers.{i}",
            (draw(st.integers(1, 50)), group * count),
            draw(st.sampled_from(["attention", "mlp", "expert", "embedding", "head", "other"])),
            draw(st.none() | st.integers(0, 9)),
            draw(st.none() | st.integers(0, 9)),
            draw(st.integers(1, 3)),
            tuple(draw(st.lists(st.text(max_size=5), max_size=2))),
        )
        bits = tuple(draw(st.lists(st.integers(1, 8), min_size=count, max_size=count)))
        offset, scale = draw(st.sampled_from(["none", "integer", "float"])), draw(st.sampled_from(["fp16", "u8"]))
        parts.append(part)
        specs[part.name] = PlaneSpec(bits, group, offset, scale, draw(st.booleans()))
    return Plan("gptq", {"damp": 0.01, "act_order": True}, parts, specs)


def example() -> dict[str, Any]:
    """A valid plan as plain data."""
    part = Part("layers.0", (4, 16), "mlp", 0, tied=("head",))
    other = Part("layers.1", (4, 16), "attention", 1)
    specs = {"layers.0": PlaneSpec.uniform(3, 16, 8), "layers.1": PlaneSpec((2, 3, 4, 1), 4, "float", "fp16", True)}
    return Plan("rtn", {"group_size": 8}, [part, other], specs).to_json()


@given(plans())
def test_round_trip(plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.to_json() == plan.to_json()


@given(plans())
def test_sizes_are_the_packers(plan: Plan) -> None:
    assert plan.numel == sum(part.shape[0] * part.shape[1] for part in plan.parts)
    sizes = [BitPlanes.plan(part.shape[0], plan.specs[part.name]).nbytes for part in plan.parts]
    assert [plan.part_bytes(part) for part in plan.parts] == sizes
    assert plan.code_bytes == sum(sizes)


@given(JSON)
def test_junk_is_refused(data: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Plan.from_json(data)
    assert caught.value.hint


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [path, *(place for key in keys for place in _places(data[key], (*path, key)))]


@given(st.sampled_from(_places(example())[1:]), JSON, st.booleans())
def test_a_plan_with_junk_in_it_is_refused_or_whole(place: tuple[Any, ...], junk: Any, remove: bool) -> None:
    data = copy.deepcopy(example())
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = junk
    try:
        plan = Plan.from_json(json.loads(json.dumps(data)))
    except UsageError as error:
        assert error.message and error.hint
    else:
        for part in plan.parts:
            assert plan.specs[part.name].cols == part.shape[1]
            assert plan.part_bytes(part) > 0
        assert Plan.from_json(plan.to_json()) == plan


MUTATIONS: list[tuple[tuple[Any, ...], Any]] = [
    (("version",), 2),
    (("version",), None),
    (("method",), 3),
    (("options",), []),
    (("parts",), []),
    (("parts",), {}),
    (("parts", 0, "name"), None),
    (("parts", 1, "name"), "layers.0"),
    (("parts", 0, "shape"), [4]),
    (("parts", 0, "shape"), [4, 0]),
    (("parts", 0, "shape"), [-4, 16]),
    (("parts", 0, "shape"), [4, 16.0]),
    (("parts", 0, "shape"), [True, 16]),
    (("parts", 0, "shape"), [4, 17]),
    (("parts", 0, "shape"), [4, 2**31]),
    (("parts", 0, "shape"), "ab"),
    (("parts", 0, "role"), "boss"),
    (("parts", 0, "role"), []),
    (("parts", 0, "block"), -1),
    (("parts", 0, "block"), "0"),
    (("parts", 0, "uses"), 1.5),
    (("parts", 0, "expert"), True),
    (("parts", 0, "tied"), "head"),
    (("parts", 0, "tied"), [1]),
    (("parts", 0, "tied"), {"head": 1}),
    (("parts", 0, "format"), None),
    (("parts", 0, "format"), []),
    (("parts", 0, "format", "bits"), 9),
    (("parts", 0, "format", "bits"), True),
    (("parts", 0, "format", "bits"), "33333"),
    (("parts", 0, "format", "group_size"), 0),
    (("parts", 0, "format", "group_size"), float("inf")),
    (("parts", 0, "format", "group_size"), float("nan")),
    (("parts", 0, "format", "group_size"), "9" * 5000),
    (("parts", 0, "format", "more"), 1),
]


@pytest.mark.parametrize(("place", "value"), MUTATIONS, ids=str)
@pytest.mark.parametrize("error", [UsageError, ArtifactError])
def test_every_field_is_checked(place: tuple[Any, ...], value: Any, error: type[UsageError]) -> None:
    data = example()
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(error) as caught:
        Plan.from_json(data, error=error)
    assert type(caught.value) is error and caught.value.hint


def test_deep_nests_and_many_parts() -> None:
    nest: Any = []
    for _ in range(900):
        nest = [nest]
    for key in ("role", "name", "shape", "format", "tied", "block"):
        data = example()
        data["parts"][0][key] = nest
        with pytest.raises(UsageError):
            Plan.from_json(data)


def test_a_plan_does_not_ask_for_more_than_the_files_hold() -> None:
    data = example()
    assert Plan.from_json(data, stored=1000).numel == 128
    with pytest.raises(ArtifactError, match="hold"):
        Plan.from_json(data, error=ArtifactError, stored=15)
    # Two thousand million groups in a row, written in a line.
    data["parts"][0] |= {"shape": [1, 2**31 - 1], "format": {"bits": 1, "group_size": 1}}
    with pytest.raises(UsageError, match="hold"):
        Plan.from_json(data)


def test_classes_of_other_rows_are_refused() -> None:
    data = example()
    form = data["parts"][0]["format"]
    data["parts"][0]["format"] = {"kind": "rows", "classes": [{"rows": 3} | form, {"rows": 1} | form]}
    plan = Plan.from_json(data)
    assert Plan.from_json(plan.to_json()) == plan
    data["parts"][0]["format"]["classes"][0]["rows"] = 4
    with pytest.raises(ArtifactError, match="rows"):
        Plan.from_json(data, error=ArtifactError)
    data["parts"][0]["format"]["classes"][0]["rows"] = 2**40
    with pytest.raises(UsageError):
        Plan.from_json(data)
