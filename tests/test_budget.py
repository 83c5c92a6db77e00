"""Budgets as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.budget import Budget
from tailorbird.errors import UsageError

UNITS = {"B": 1, "kB": 1000, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
AMOUNTS = st.decimals("0.001", 10**6, places=3).map(str)


@given(AMOUNTS, st.sampled_from(["", " "]), st.sampled_from(["bit", "bits", "Bits", "BITS"]))
def test_bits(amount: str, space: str, unit: str) -> None:
    assert Budget.parse(f"{amount}{space}{unit}") == Budget(bits=Fraction(amount))


@given(AMOUNTS, st.sampled_from(sorted(UNITS)), st.sampled_from([str, str.lower, str.upper]))
def test_bytes(amount: str, unit: str, case: type[str]) -> None:
    assert Budget.parse(f" {amount}{case(unit)} ") == Budget(nbytes=int(Fraction(amount) * UNITS[unit]))


@given(st.lists(st.tuples(AMOUNTS, st.sampled_from(["bits", "MB"])), max_size=4))
def test_the_smallest_of_a_kind_holds(entries: list[tuple[str, str]]) -> None:
    found = Budget.parse([amount + unit for amount, unit in entries])
    bits = [Fraction(amount) for amount, unit in entries if unit == "bits"]
    sizes = [int(Fraction(amount) * 10**6) for amount, unit in entries if unit == "MB"]
    assert found == Budget(min(bits, default=None), min(sizes, default=None))


@given(st.text(max_size=20))
def test_any_text_is_a_budget_or_an_error(text: str) -> None:
    try:
        found = Budget.parse(text)
    except UsageError as error:
        assert error.hint and repr(text) in error.message
    else:
        assert (found.bits or found.nbytes or found.milliseconds) is not None


@pytest.mark.parametrize("text", ["8ms/token@this.json", " 8 ms@this.json", "8.0MS/Token @ this.json "])
def test_milliseconds(text: str) -> None:
    assert Budget.parse(text) == Budget(milliseconds=Fraction(8), profile="this.json")


def test_several_kinds_at_once() -> None:
    found = Budget.parse(["8ms@a.json", "7.5ms/token@a.json", "3bits", "1MB"])
    assert found == Budget(Fraction(3), 10**6, Fraction(15, 2), "a.json")
    with pytest.raises(UsageError, match=r"2 devices: a\.json, b\.json"):
        Budget.parse(["8ms@a.json", "8ms@b.json"])


@pytest.mark.parametrize(
    "text",
    [
        "8ms", "8ms@", "8ms/token", "0ms@a", "ms@a", "8s@a", "8ms/word@a",
        "", "3", "bits", "MB", "0bits", "0MB", "0.000bits", "-3bits", "3ib", "3.bits", ".5bits", "1e3MB", "3 bits 4MB",
        "nan", "infMB", "3TB", "3kbit", "3\u212ab", "3k\u0130b", "٣bits", "9" * 400 + "bits", "9" * 5000 + "MB",
        "0." + "0" * 5000 + "1bits",
    ],
)  # fmt: skip
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


def test_weight_bytes() -> None:
    assert Budget.parse("3bits").weight_bytes(1000, 77) == 375
    assert Budget.parse("2kB").weight_bytes(1000, 77) == 1923
    assert Budget.parse(["3bits", "400B"]).weight_bytes(1000, 77) == 323
    assert Budget.parse(["3bits", "1GB"]).weight_bytes(1000, 77) == 375
    assert Budget.parse([]).weight_bytes(1000, 77) > 10**18
