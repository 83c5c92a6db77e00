"""Bits by rows of an embedding or a head: reverse water-filling over what the rows are worth.

At the least sum of losses every row has bits by the logarithm of its importance: half a bit for a factor of two, where
a bit less costs four times the error and errors are small (rate-distortion theory: Cover and Thomas, Elements of
Information Theory, 10.3.3). Here it is half of that (`SLOPE`): the errors of a head's rows at one or two bits are not
small, they raise the words' probabilities exponentially; and other texts ask for other rows than the calibration text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tailorbird.formats import Fit, RowSpec, Spec
from tailorbird.formats.rows import FittedRows
from tailorbird.formats.spec import MAX_BITS
from tailorbird.kernels.rows import joined

SLOPE = 0.25
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
    """Base 2; rows that are worth nothing come a bit after the least of the others."""
    seen = importance[importance > 0]
    least = float(seen.min()) if len(seen) else 1.0
    return importance.double().clamp_min(least / 2 ** (1 / SLOPE)).log2()


def _sizes(bits: Tensor) -> dict[int, int]:
    """Rows by bits, fewest bits first, with every row's bits rounded to what there is."""
    counts = torch.bincount(bits.round().clamp(1, MAX_BITS).long(), minlength=MAX_BITS + 1).tolist()
    # Few rows at the top join the next class below.
    for b in range(MAX_BITS, 1, -1):
        if counts[b] < min(FEWEST, len(bits) // 8):
            counts[b - 1] += counts[b]
            counts[b] = 0
    return {b: counts[b] for b in range(1, MAX_BITS + 1) if counts[b]}


def _bytes(sizes: Mapping[int, int], form: Callable[[int], Spec]) -> int:
    parts = [form(bits).plan(rows) for bits, rows in sizes.items()]
    rows = torch.empty(sum(sizes.values()), dtype=torch.uint8, device="meta")
    arrays = joined(rows, [part.arrays for part in parts])
    stored = sum(array.numel() * array.element_size() for array in arrays.values())
    return stored + _HEADER * (len(arrays) + len(sizes))
