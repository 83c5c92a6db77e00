"""Colours: seven for series, one scale from dark to light for bits; both safe for colour-blind readers.

The bit scale samples viridis (S. van der Walt, N. Smith, 2015; public domain). The series colours are darker
and lighter relatives of the set by M. Okabe and K. Ito, with a contrast of at least 3:1 on the page in either
mode.
"""

from __future__ import annotations

_VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"]
MAX_BITS = len(_VIRIDIS)

SERIES_LIGHT = ["#0067a5", "#c04a00", "#00745a", "#a03c78", "#806000", "#5a50b4", "#5a5a5a"]
SERIES_DARK = ["#5db7ee", "#ff9157", "#3fcaa2", "#eb9fcd", "#e8be4f", "#b0aaff", "#c4c4c4"]


def bit_colour(bits: float) -> str:
    """Colour of a bit-width: dark for 1 bit, light for 8 and more."""
    at = min(max(bits, 1.0), float(MAX_BITS)) - 1
    index = min(int(at), MAX_BITS - 2)
    low, high = _channels(_VIRIDIS[index]), _channels(_VIRIDIS[index + 1])
    mixed = (round(a + (b - a) * (at - index)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def text_class(background: str) -> str:
    """Class of the text, light or dark, that reads best on a background (WCAG 2 relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(background))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "on-dark" if luminance < 0.179 else "on-light"


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
