"""A part in a format, cheaply: what stands for the method's own fit while formats are weighed against each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from tailorbird.allocate.rows import by_rows, ranked
from tailorbird.anatomy import Part
from tailorbird.fit.search import RangeSearch
from tailorbird.fit.sweep import sweep
from tailorbird.formats import RowSpec, Spec, above_eight, affine
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method

# Below three bits the plain range is far from what any method that looks at its data ends with.
_SEARCH = RangeSearch((0.5, 0.65, 0.8, 0.9), norm=2.0)


def rounded(method: Method, weight: Tensor, spec: Spec) -> Tensor:
    """The weight as the format would hold it, float32 (rows, cols), each row for itself.

    By the method itself where it needs no calibration data, else by rounding to the best of some ranges without
    feedback: what a method gains by its data is corrected part by part on the finished model (`pipeline.refine`). The
    nearest affine planes stand for a format that is none of them, but for one of more than eight bits.
    """
    if method.needs and not above_eight(spec):
        return sweep(weight, affine(spec), _SEARCH).pack().dequantize()
    return method.fitted(weight.clone(), Stats(), spec).pack().dequantize()


class Rounding:
    """`rounded`, with rows of an embedding or a head in classes by what they are worth.

    Args:
        method: whose formats they are.
        worth: of every row, float32 (rows,), by part name; parts that are left out have one format.
    """

    def __init__(self, method: Method, worth: Mapping[str, Tensor] | None = None) -> None:
        self.method, self.worth = method, worth or {}
        self._found: dict[tuple[str, Spec], tuple[RowSpec, Tensor] | None] = {}

    def __call__(self, part: Part, weight: Tensor, spec: Spec, at: slice | Tensor | None = None) -> Tensor:
        """Rows of a part as a format of so many bytes would hold them.

        Args:
            part: whose rows they are.
            weight: float32 (n, cols).
            spec: the format; where rows have classes, these take its bytes.
            at: which of the part's rows; all of them where it is None.
        """
        found = self._classes(part, spec) if part.name in self.worth else None
        if found is None:
            return rounded(self.method, weight, spec)
        classes, out = found[1] if at is None else found[1][at], torch.empty_like(weight)
        for k, form in enumerate(found[0].formats):
            mine = (classes == k).nonzero()[:, 0]
            if len(mine):
                out[mine] = rounded(self.method, weight[mine], form)
        return out

    def _classes(self, part: Part, spec: Spec) -> tuple[RowSpec, Tensor] | None:
        if (part.name, spec) not in self._found:
            worth = self.worth[part.name]
            rows = by_rows(worth, partial(self.method.spec, part), spec.plan(len(worth)).nbytes)
            self._found[part.name, spec] = None if rows is None else (rows, ranked(worth, rows))
        return self._found[part.name, spec]
