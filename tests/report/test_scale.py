"""Axes and numbers: round ticks, three figures, exact rounding at the edges of the units."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.report.colour import MAX_BITS, SERIES_DARK, SERIES_LIGHT, bit_colour, text_class
from tailorbird.report.scale import Scale, fit, spread
from tailorbird.report.text import duration, figure, human_bytes, percent, shorten, tick_text

POSITIVE = st.floats(min_value=5e-324, max_value=1e308)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_499, "999 kB"), (999_500, "1.00 MB")),
        *(
            (12_340_000, "12.3 MB"),
            (536_196_352, "536 MB"),
            (4e9, "4.00 GB"),
            (-2500, "−2.50 kB"),
            (None, "–"),
        ),
    ],
)
def test_bytes(count: float | None, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (16.94, "16.9"), (0.01234, "0.0123"), (9.999, "10.0"), (123456.0, "123,456")),
        *((1.5e-7, "1.50×10⁻⁷"), (2e12, "2.00×10¹²"), (5e-324, "4.94×10⁻³²⁴"), (-3.0, "−3.00")),
        *((None, "–"), (math.inf, "–")),
    ],
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_other_numbers() -> None:
    assert [tick_text(value) for value in (0, 0.005, 2000, 1e-5, 3e7)] == [
        "0",
        "0.005",
        "2,000",
        "10⁻⁵",
        "3×10⁷",
    ]
    assert [duration(value) for value in (0.5, 80.1, 7384.0, None)] == [
        "0.5 s",
        "1 min 20 s",
        "2 h 03 min",
        "–",
    ]
    assert percent(-0.1234, sign=True) == "−12.3 %"
    assert shorten("abcdefghij", 5) == "ab…ij" and shorten("abc", 5) == "abc"


@pytest.mark.parametrize(("low", "high"), [(16.9, 4100), (0.003, 0.08), (17, 19), (1e-12, 1e9), (5.0, 5.0)])
def test_logarithmic_ticks_are_few_and_inside(low: float, high: float) -> None:
    scale = fit([low, high], 400, 0, log=True)
    ticks = scale.ticks(6)
    assert 2 <= len(ticks) <= 10
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert len({tick_text(tick) for tick in ticks}) == len(ticks)


@given(st.lists(POSITIVE, min_size=1, max_size=5), st.booleans())
def test_any_values_find_their_place(values: list[float], log: bool) -> None:
    scale = fit(values, 0, 100, log=log)
    assert scale.low < scale.high
    for value in values:
        assert math.isfinite(scale(value))
        if 1e-150 <= value <= 1e150:
            assert -1e-6 <= scale(value) <= 100 + 1e-6
    assert len(scale.ticks(6)) <= 16


def test_even_ticks() -> None:
    assert Scale(0, 10, 0, 1).ticks(5) == [0, 2, 4, 6, 8, 10]


@given(st.lists(st.floats(0, 300), min_size=1, max_size=30))
def test_spread_keeps_distance_and_bounds(wanted: list[float]) -> None:
    places = sorted(spread(wanted, 16, 0, 300))
    gap = min(16, 300 / max(len(wanted) - 1, 1))
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(places))
    assert places[-1] <= 300 + 1e-6 and places[0] >= -1e-6


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_the_page() -> None:
    """WCAG 2.1: 3:1 for marks (1.4.11), 4.5:1 for text (1.4.3)."""
    assert all(contrast(colour, "#ffffff") >= 3 for colour in SERIES_LIGHT)
    assert all(contrast(colour, "#16191d") >= 3 for colour in SERIES_DARK)
    for step in range(10 * MAX_BITS):
        fill = bit_colour(step / 10)
        ink = {"on-dark": "#ffffff", "on-light": "#000000"}[text_class(fill)]
        assert contrast(fill, ink) >= 4.5


def test_more_bits_are_lighter() -> None:
    shades = [luminance(bit_colour(bits)) for bits in range(1, MAX_BITS + 1)]
    assert shades == sorted(shades)
