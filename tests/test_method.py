"""Options as they come from a command line, and the group size a row gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method, group_of
from tailorbird.methods import find, methods


@dataclass(frozen=True, kw_only=True)
class Example(Method):
    """A method with an option of every kind."""

    name: ClassVar[str] = "example"
    count: int = 3
    share: float = 0.5
    fast: bool = False
    word: str = "a"


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_text_is_read_as_the_fields_type(text: str) -> None:
    method = Example.from_options({"count": "7", "share": "1e-3", "fast": text, "word": "true", "scale": "fp16"})
    assert method == Example(count=7, share=1e-3, fast=True, word="true", scale="fp16")
    assert isinstance(Example.from_options({"share": 1}).options()["share"], float)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 1.0}, {"count": True}, {"count": "1.0"}, {"share": True}, {"share": "much"}, {"share": "nan"},
        {"share": float("inf")}, {"fast": 1}, {"fast": "1"}, {"word": 1}, {"scale": "u4"}, {"symmetric": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_the_wrong_type(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Example.from_options(options)
    assert next(iter(options)) in caught.value.message and caught.value.hint


@given(st.integers(1, 5000), st.integers(1, 300))
def test_group_of_divides_the_row(cols: int, wanted: int) -> None:
    size = group_of(cols, wanted)
    assert cols % size == 0
    if cols % wanted == 0:
        assert size == wanted
    divisors = [d for d in range(1, min(wanted, cols) + 1) if cols % d == 0 and 4 * d >= min(wanted, cols)]
    assert size == (max(divisors) if divisors else cols)


def test_the_format_follows_the_options() -> None:
    part = Part("w", (8, 96), "mlp")
    assert Example(group_size=64).spec(part, 3) == PlaneSpec((3, 3), 48, "integer", "u8")
    assert Example(symmetric=True, scale="fp16").spec(part, 3).offset == "none"
    assert Example(group_size=10**6).spec(part, 2) == PlaneSpec((2,), 96)


def test_a_method_without_fit_says_so() -> None:
    spec = PlaneSpec((3,), 4)
    assert Example().decide(torch.ones(1, 4), Stats(), spec) is spec
    with pytest.raises(NotImplementedError, match="example"):
        Example().fit(torch.ones(1, 4), Stats(), spec)


def test_the_registry_lists_what_there_is() -> None:
    assert {"rtn", "gptq", "slim-llm"} <= set(methods())
    with pytest.raises(UsageError, match="'gtpq'") as caught:
        find("gtpq")
    assert "gptq" in caught.value.hint
