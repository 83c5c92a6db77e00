"""A part in a format, cheaply: what stands for the method's own fit while formats are weighed against each other."""

from __future__ import annotations

from torch import Tensor

from tailorbird.fit.search import RangeSearch
from tailorbird.fit.sweep import sweep
from tailorbird.formats import Spec, affine
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method

# Below three bits the plain range is far from what any method that looks at its data ends with.
_SEARCH = RangeSearch((0.5, 0.65, 0.8, 0.9), norm=2.0)


def rounded(method: Method, weight: Tensor, spec: Spec) -> Tensor:
    """The weight as the format would hold it, float32 (rows, cols), each row for itself.

    By the method itself where it needs no calibration data, else by rounding to the best of some ranges without
    feedback: what a method gains by its data is corrected part by part on the finished model (`pipeline.refine`). The
    nearest affine planes stand for a format that is none of them.
    """
    if method.needs:
        return sweep(weight, affine(spec), _SEARCH).pack().dequantize()
    return method.fit(weight.clone(), Stats(), spec).pack().dequantize()
