"""One cell of the bit map: a number on its colour, and below it the bits of the part's groups."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from tailorbird.report.colour import bit_colour, text_class
from tailorbird.report.facts import PartFacts, mean
from tailorbird.report.svg import label, tag, title
from tailorbird.report.text import figure, human_bytes

_STRIP = 10
_MAX_BARS = 24


@dataclass(frozen=True)
class Look:
    """Sizes of the cells in pixels, and the decimals of their numbers."""

    width: float
    height: float
    places: int
    strip: bool

    @property
    def pitch(self) -> float:
        """From one row to the next: a strip stands clearly nearer to its own number."""
        return self.height + (7 if self.strip else 2)


def cell(parts: list[PartFacts], x: float, y: float, look: Look) -> str:
    """One cell of the map: the mean bits of its parts, and for a single part its groups."""
    wide, high = look.width - 2, look.height
    if not parts:
        return tag("rect", x=x + 0.5, y=y + 0.5, width=wide - 1, height=high - 1, class_="blank")
    bits = mean(parts, lambda part: part.bits)
    top = high - _STRIP if look.strip else high
    if bits is None:
        box = tag("rect", x=x + 0.5, y=y + 0.5, width=wide - 1, height=top - 1, class_="blank")
        text = label(x + wide / 2, y + 16, "–", anchor="middle")
    else:
        fill = bit_colour(bits)
        box = tag("rect", x=x, y=y, width=wide, height=top, fill=fill, rx=2)
        text = label(x + wide / 2, y + 16, f"{bits:.{look.places}f}", anchor="middle", class_=text_class(fill))
    strip = _strip(parts[0].groups, x, y + high, wide) if len(parts) == 1 and look.strip else ""
    return tag("g", title(_story(parts, bits)), box, text, strip)


def _strip(groups: tuple[int, ...], x: float, base: float, wide: float) -> str:
    """Bits along the row as small bars: height and colour both tell them; long rows are averaged."""
    if not groups:
        return ""
    count = min(len(groups), _MAX_BARS)
    edges = [round(index * len(groups) / count) for index in range(count + 1)]
    means = [sum(groups[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    top, step = max(groups), wide / count
    return "".join(
        tag(
            "rect",
            x=x + index * step,
            y=base - (_STRIP - 2) * bits / top,
            width=step - (0.6 if step > 2 else 0.2),
            height=(_STRIP - 2) * bits / top,
            fill=bit_colour(bits),
        )
        for index, bits in enumerate(means)
    )


def _story(parts: list[PartFacts], bits: float | None) -> str:
    part = parts[0]
    lines = [part.name if len(parts) == 1 else f"{len(parts)} parts like {part.name}"]
    lines.append(f"shape {' × '.join(map(str, part.shape)) or 'not known'}")
    lines.append(f"{figure(bits)} bits, {human_bytes(sum(part.size for part in parts))}")
    if part.group_size:
        lines.append(f"groups of {part.group_size:g}")
    if len(parts) == 1 and part.groups:
        tally = sorted(Counter(part.groups).items())
        lines.append("groups by bits: " + ", ".join(f"{count} at {width}" for width, count in tally))
    return "\n".join(lines)
