"""A part in a format, cheaply: what stands for the method's own fit while formats are weighed against each other."""

from __future__ import annotations

from torch import Tensor

from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method


def rounded(method: Method, weight: Tensor, spec: PlaneSpec) -> Tensor:
    """The weight as the format would hold it, float32 (rows, cols).

    By the method itself where it needs no calibration data, else by rounding to nearest without feedback: what the
    method saves on that differs little between parts, and is corrected where it does (see `pipeline.refine`).
    """
    if method.needs:
        return sweep(weight, spec, minmax).pack().dequantize()
    return method.fit(weight.clone(), Stats(), spec).pack().dequantize()
