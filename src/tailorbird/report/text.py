"""Values from outside as text that is safe in HTML and SVG, and numbers as people read them."""

from __future__ import annotations

import html
import math
import re
from typing import Any

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Not allowed in XML, or able to turn round the text that follows them (bidirectional overrides).
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def esc(value: object) -> str:
    """Any value as text that can stand in an element or a quoted attribute, of HTML and of XML."""
    return html.escape(_UNSAFE.sub("\ufffd", str(value)), quote=True)


def number(value: Any) -> float | None:
    """A finite number, or None for everything else (None, NaN, infinities, texts, truth values)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def human_bytes(count: float | None) -> str:
    """Bytes in decimal units with three significant figures: 1 MB is 10^6 bytes."""
    if count is None:
        return MISSING
    size, units = abs(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    step = 0
    while size >= 999.5 and step < len(units) - 1:
        size, step = size / 1000, step + 1
    places = 0 if step == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{'−' if count < 0 else ''}{size:.{places}f} {units[step]}"


def byte_cell(count: float | None) -> str:
    """Markup of a byte count: rounded to read, exact on hovering."""
    if count is None:
        return MISSING
    return f'<span title="{count:,.0f} bytes">{human_bytes(count)}</span>'


def figure(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant figures, thousands apart, powers of ten when very large or small."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if not -4 <= power <= 6:
        return f"{mantissa}×10{str(power).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - power)}f}".replace("-", "−")


def tick_text(value: float) -> str:
    """A tick of an axis: as few figures as it needs."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.6f}".rstrip("0").rstrip(".").replace("-", "−")
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    factor = f"{float(mantissa):g}×".replace("-", "−")
    return f"{'' if factor == '1×' else factor}10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def percent(share: float | None, places: int = 1, *, sign: bool = False) -> str:
    """A share of one as a percentage."""
    if share is None:
        return MISSING
    return f"{share * 100:{'+' if sign else ''}.{places}f} %".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the middle left out: both ends of a dotted name tell something."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def text_width(text: str) -> float:
    """Rough width of a text in pixels at a size of 12, on the wide side: the reader's font is not known."""
    widths = {**dict.fromkeys(" .,:;'|!il()", 3.9), **dict.fromkeys("mwMW…—", 12.0), "×": 10.1}
    return sum(widths.get(letter, 8.2 if letter.isupper() else 7.5) for letter in text)


def fit_text(text: str, width: float) -> str:
    """The text, shortened until it is about `width` pixels at most."""
    limit = len(text) if len(text) < 60 else 60
    while limit > 3 and text_width(shorten(text, limit)) > width:
        limit -= 1
    return shorten(text, limit)
