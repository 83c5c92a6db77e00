"""What a part costs on a device: milliseconds of its products, read off a `Profile`; bytes of keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tailorbird.anatomy import Part
from tailorbird.errors import DataError, ModelError
from tailorbird.formats import Spec, widths
from tailorbird.runtime.decoder import Cached
from tailorbird.runtime.profile import Profile


class Milliseconds:
    """Milliseconds of a part's products for one token, by format.

    A shape that was not measured costs what its number of weights says, between the two nearest numbers that were
    measured; a row that has several bit-widths costs their mean.
    """

    def __init__(self, profile: Profile) -> None:
        self.table: dict[int, dict[int, float]] = {}
        shapes: dict[tuple[int, int, int], float] = {}
        for entry in profile.entries:
            if entry.batch == 1:
                shapes[entry.bits, entry.rows, entry.cols] = entry.milliseconds
        self.shapes = shapes
        for (bits, rows, cols), cost in shapes.items():
            known = self.table.setdefault(bits, {})
            known[rows * cols] = min(cost, known.get(rows * cols, math.inf))
        if not self.table:
            raise DataError("the profile has no products with one row", hint="make one: tailorbird profile --out FILE")

    def __call__(self, part: Part, spec: Spec) -> float:
        """Milliseconds a token; nothing for an embedding that is only looked up."""
        if part.role == "embedding" and not part.tied:
            return 0.0
        found = widths(spec)
        return part.uses * sum(self._product(part, bits) for bits in found) / len(found)

    def _product(self, part: Part, bits: int) -> float:
        known = self.table.get(bits) or self.table[min(self.table, key=lambda other: (abs(other - bits), -other))]
        exact = self.shapes.get((bits, *part.shape))
        return exact if exact is not None else _between(known, part.numel)


def _between(known: Mapping[int, float], numel: int) -> float:
    """A cost a weight, straight between the logarithms of the nearest sizes, times the weights."""
    low = max((size for size in known if size <= numel), default=min(known))
    high = min((size for size in known if size >= numel), default=max(known))
    share = math.log(numel / low) / math.log(high / low) if high > low and low <= numel <= high else 0.0
    each = math.log(known[low] / low) * (1 - share) + math.log(known[high] / high) * share
    return math.exp(each) * numel


def cache_bytes(config: Mapping[str, Any], context: int, dtype: Cached = "bf16") -> int:
    """Bytes of the keys and values of `context` tokens, as the native decoder keeps them.

    Raises:
        ModelError: the configuration does not say how many heads there are, and of what size.
    """
    try:
        heads = config["num_attention_heads"]
        kept = config.get("num_key_value_heads") or heads
        size = config.get("head_dim") or config["hidden_size"] // heads
        places = config["num_hidden_layers"] * kept * context
        return int(2 * places * (2 * size if dtype == "bf16" else size + 4))
    except (KeyError, TypeError, ZeroDivisionError) as cause:
        raise ModelError(
            f"config.json does not say how large keys and values are: {cause}", hint="leave --context out"
        ) from cause
