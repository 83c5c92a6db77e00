"""What the user asked for: ``3bits``, ``120MB``, or both."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tailorbird.errors import UsageError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# ASCII digits and few of them: int() refuses thousands, and other alphabets have letters that lower to more than one.
_FORM = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*(bits?|b|[kmg]i?b)\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Budget:
    """Limits that hold at once; None is no limit.

    Attributes:
        bits: stored bits for every weight, scales and all, embeddings and head included.
        nbytes: bytes of all files the runtime loads.
    """

    bits: Fraction | None = None
    nbytes: int | None = None

    @classmethod
    def parse(cls, texts: str | Iterable[str]) -> Budget:
        """Read one or several budgets such as ``2.5bits``, ``120MB`` (10**6 bytes), ``114MiB``; the smallest of a
        kind holds.

        Raises:
            UsageError: not a budget.
        """
        bits: list[Fraction] = []
        sizes: list[int] = []
        for text in [texts] if isinstance(texts, str) else texts:
            match = _FORM.fullmatch(text)
            if not match or not float(match[1]):
                raise UsageError(f"{text!r} is not a budget", hint="write 3bits, 2.5bits, 120MB, 900kB or 1.5GiB")
            amount, unit = Fraction(match[1]), match[2].lower()
            if unit.startswith("bit"):
                bits.append(amount)
            else:
                sizes.append(int(amount * _UNITS[unit]))
        return cls(min(bits, default=None), min(sizes, default=None))

    def weight_bytes(self, numel: int, other: int) -> int:
        """Bytes the weights may take.

        Args:
            numel: weights the bits are counted over.
            other: bytes of the files beside the weights (configuration, tokenizer, plan, manifest).
        """
        limits = [] if self.bits is None else [int(self.bits * numel / 8)]
        if self.nbytes is not None:
            limits.append(self.nbytes - other)
        return min(limits, default=2**63)
