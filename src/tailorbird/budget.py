"""What the user asked for: ``3bits``, ``120MB``, ``8ms/token@this.json``, or several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tailorbird.errors import UsageError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# ASCII digits and few of them: int() refuses thousands, and other alphabets have letters that lower to more than one.
_FORM = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*(bits?|b|[kmg]i?b)\s*", re.IGNORECASE | re.ASCII)
_LATENCY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*ms(?:/token)?\s*@\s*(\S.*?)\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Budget:
    """Limits that hold at once; None is no limit.

    Attributes:
        bits: stored bits for every weight, scales and all, embeddings and head included.
        nbytes: bytes of all files the runtime loads and, with a context, of its keys and values.
        milliseconds: of one decoded token, on the device of
        profile: the file that ``tailorbird profile`` wrote there.
    """

    bits: Fraction | None = None
    nbytes: int | None = None
    milliseconds: Fraction | None = None
    profile: str | None = None

    @classmethod
    def parse(cls, texts: str | Iterable[str]) -> Budget:
        """Read one or several budgets such as ``2.5bits``, ``120MB`` (10**6 bytes), ``114MiB``,
        ``8ms/token@this.json``; the smallest of a kind holds.

        Raises:
            UsageError: not a budget, or two devices.
        """
        bits: list[Fraction] = []
        sizes: list[int] = []
        times: list[Fraction] = []
        profiles: set[str] = set()
        for text in [texts] if isinstance(texts, str) else texts:
            match = _FORM.fullmatch(text) or _LATENCY.fullmatch(text)
            if not match or not float(match[1]):
                raise UsageError(
                    f"{text!r} is not a budget",
                    hint="write 3bits, 2.5bits, 120MB, 900kB, 1.5GiB or 8ms/token@profile.json",
                )
            amount, unit = Fraction(match[1]), match[2].lower()
            if match.re is _LATENCY:
                times.append(amount)
                profiles.add(match[2])
            elif unit.startswith("bit"):
                bits.append(amount)
            else:
                sizes.append(int(amount * _UNITS[unit]))
        if len(profiles) > 1:
            raise UsageError(
                f"budgets for {len(profiles)} devices: {', '.join(sorted(profiles))}", hint="compress once for each"
            )
        return cls(
            min(bits, default=None), min(sizes, default=None), min(times, default=None), next(iter(profiles), None)
        )

    def weight_bytes(self, numel: int, other: int) -> int:
        """Bytes the weights may take.

        Args:
            numel: weights the bits are counted over.
            other: bytes of what is counted beside the weights (configuration, tokenizer, plan, manifest, cache).
        """
        limits = [] if self.bits is None else [int(self.bits * numel / 8)]
        if self.nbytes is not None:
            limits.append(self.nbytes - other)
        return min(limits, default=2**63)
