"""Bits by rows of an embedding or a head: reverse water-filling over what the rows are worth.

At the least sum of losses a row has bits by the logarithm of its importance: half a bit for a factor of two, where
errors are small and a bit less makes them four times as large (rate-distortion theory: Cover and Thomas, Elements of
Information Theory, 10.3.3). Here it is less than half of that (`SLOPE`): at one or two bits the errors of a head's rows
are not small, they raise the words' probabilities exponentially; and other texts ask for other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tailorbird.formats import Fit, RowSpec, Spec
from tailorbird.formats.rows import FittedRows
from tailorbird.formats.spec import MAX_BITS
from tailorbird.kernels.rows import joined

# Bits for a factor of two in importance. Of 1/2, 1/4 and 1/6 the middle loses least on text like the calibration text;
# less keeps more of other kinds of text.
SLOPE = 0.2
# Powers of two that rows of no importance are spread over.
UNSEEN = 4
# Rows that are worth a class of their own.
FEWEST = 64
# Bytes that one more array takes in a file's header, and one more class in the plan.
_HEADER = 128
_STEPS = 40


def by_rows(importance: Tensor, form: Callable[[int], Spec], nbytes: int) -> RowSpec | None:
    """Classes of rows that take at most so many bytes, and close to it.

    Args:
        importance: what each row is worth, float32 (rows,), not negative.
        form: the format of a class at a number of bits.
        nbytes: of all classes, with what more arrays take in a file's header.

    Returns:
        Formats by class, fewest bits first; None where two classes don't fit.
    """
    worth = SLOPE * _logarithm(importance)
    low, high = 1 - float(worth.max()), MAX_BITS - float(worth.min())
    for _ in range(_STEPS):
        level = (low + high) / 2
        low, high = (level, high) if _bytes(_sizes(worth + level), form) <= nbytes else (low, level)
    sizes = _sizes(worth + low)
    if len(sizes) < 2 or _bytes(sizes, form) > nbytes:
        return None
    return RowSpec(tuple(sizes.values()), tuple(form(bits) for bits in sizes))


def ranked(importance: Tensor | None, spec: RowSpec) -> Tensor:
    """The class of every row, uint8 (rows,): the rows worth most in the class of most bits; of equal ones, and where
    nothing is known of them, the first."""
    order = torch.arange(spec.rows) if importance is None else importance.argsort(descending=True, stable=True)
    classes = torch.empty(spec.rows, dtype=torch.uint8)
    start = 0
    for k in sorted(range(len(spec.sizes)), key=lambda k: -spec.formats[k].mean_bits):
        classes[order[start : start + spec.sizes[k]]] = k
        start += spec.sizes[k]
    return classes


def fit_rows(weight: Tensor, classes: Tensor, spec: RowSpec, fit: Callable[[Tensor, Spec], Fit]) -> FittedRows:
    """Fit every class for itself.

    Args:
        weight: float32 (rows, cols).
        classes: uint8 (rows,), the class of every row.
        spec: formats by class.
        fit: fits some rows in a format; it may overwrite them.
    """
    return FittedRows(classes, [fit(weight[classes == k], form) for k, form in enumerate(spec.formats)])


def _logarithm(importance: Tensor) -> Tensor:
    """Base 2. Rows that are worth nothing come after the others, in their order, over `UNSEEN` powers of two:
    vocabularies made by merging pairs are in the order in which words get rarer."""
    worth = importance.double().log2()
    none = importance <= 0
    least = float(worth[~none].min()) if not none.all() else 0.0
    worth[none] = least - torch.linspace(0, UNSEEN, int(none.sum()), dtype=torch.float64)
    return worth


def _sizes(bits: Tensor) -> dict[int, int]:
    """Rows by bits, fewest bits first, with every row's bits rounded to what there is."""
    counts = torch.bincount(bits.round().clamp(1, MAX_BITS).long(), minlength=MAX_BITS + 1).tolist()
    few = min(FEWEST, len(bits) // 8)
    # Few rows join the next class above; at the top, the next below.
    for b in range(1, max(b for b, n in enumerate(counts) if n)):
        if counts[b] < few:
            counts[b + 1] += counts[b]
            counts[b] = 0
    for b in range(MAX_BITS, 1, -1):
        if counts[b] < few:
            counts[b - 1] += counts[b]
            counts[b] = 0
    return {b: counts[b] for b in range(1, MAX_BITS + 1) if counts[b]}


def _bytes(sizes: Mapping[int, int], form: Callable[[int], Spec]) -> int:
    parts = [form(bits).plan(rows) for bits, rows in sizes.items()]
    rows = torch.empty(sum(sizes.values()), dtype=torch.uint8, device="meta")
    arrays = joined(rows, [part.arrays for part in parts])
    stored = sum(array.numel() * array.element_size() for array in arrays.values())
    more = len(arrays) - min(len(part.arrays) for part in parts)
    return stored + _HEADER * (more + len(sizes))
