"""The report's data, read with care: what is missing or of the wrong kind counts as not known."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailorbird.report.text import number

Report = Mapping[str, Any]


@dataclass(frozen=True)
class PartFacts:
    """One compressed weight: sizes in bytes, `error` relative, `groups` the bits of each group if mixed."""

    name: str
    kind: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    bits: float | None
    groups: tuple[int, ...]
    group_size: float | None
    size: float
    codes: float | None
    error: float | None
    seconds: float | None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape) if self.shape else 0


def section(report: Report, key: str) -> Report:
    """A section of the report, empty if it is missing."""
    value = report.get(key)
    return value if isinstance(value, Mapping) else {}


def rows(report: Report, key: str) -> list[Report]:
    """A section that is a list of records."""
    value = report.get(key)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def numbers(values: Report) -> dict[str, float]:
    """The entries of a section that are numbers."""
    found = ((str(key), number(value)) for key, value in values.items())
    return {key: value for key, value in found if value is not None}


def read_parts(report: Report) -> list[PartFacts]:
    """Every part of the report, in its order."""
    return [_part(row) for row in rows(report, "parts")]


def _part(row: Report) -> PartFacts:
    name = str(row.get("name", ""))
    block = row.get("block")
    block = block if isinstance(block, int) and not isinstance(block, bool) and 0 <= block < 10**6 else None
    shape = row.get("shape")
    sides = [number(side) for side in shape] if isinstance(shape, (list, tuple)) else []
    pieces = section(row, "bytes_by")
    size = number(row.get("bytes"))
    return PartFacts(
        name=name,
        kind=kind_of(name, block),
        role=str(row.get("role") or "other"),
        block=block,
        shape=tuple(int(side) for side in sides[:8] if side is not None and 0 <= side < 2**48),
        bits=number(row.get("bits")),
        groups=_group_bits(row.get("group_bits")),
        group_size=number(row.get("group_size")),
        size=size if size is not None else sum(numbers(pieces).values()),
        codes=number(pieces.get("planes")),
        error=number(row.get("error")),
        seconds=number(row.get("seconds")),
    )


def _group_bits(value: Any) -> tuple[int, ...]:
    """One small number for each group, from a text of digits or a list; empty unless they differ."""
    items = value if isinstance(value, (str, list, tuple)) else ()
    texts = (str(item) for item in items)
    bits = tuple(int(text) for text in texts if re.fullmatch("[0-9]|1[0-6]", text, re.ASCII))
    return bits if len(set(bits)) > 1 else ()


def kind_of(name: str, block: int | None) -> str:
    """What a part is within its block: its name after the block's index, experts' indices dropped."""
    words = name.split(".")
    if block is not None and str(block) in words:
        words = words[words.index(str(block)) + 1 :]
    return ".".join("*" if word.isdecimal() else word for word in words) or name


def short_names(kinds: Iterable[str]) -> dict[str, str]:
    """The shortest endings that still tell the kinds apart, without ``_proj``."""
    kinds = list(dict.fromkeys(kinds))
    for depth in (1, 2):
        short = {kind: ".".join(kind.split(".")[-depth:]).replace("_proj", "") for kind in kinds}
        if len(set(short.values())) == len(kinds):
            return short
    return {kind: kind for kind in kinds}


def mean(parts: Iterable[PartFacts], value: Callable[[PartFacts], float | None]) -> float | None:
    """Mean over the parts whose value is known, weighted by their numbers of weights."""
    known = [(found, max(part.weights, 1)) for part in parts if (found := value(part)) is not None]
    total = sum(weight for _, weight in known)
    return sum(found * (weight / total) for found, weight in known) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """Median of the known values."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def grouped(parts: Iterable[PartFacts], key: Callable[[PartFacts], Any]) -> dict[Any, list[PartFacts]]:
    """Parts by a key, in the order in which the keys first come."""
    found: dict[Any, list[PartFacts]] = {}
    for part in parts:
        found.setdefault(key(part), []).append(part)
    return found
