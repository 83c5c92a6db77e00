"""Above eight bits: codes have no more, so that bytes beyond go into finer scales.

Groups of 32 and of 16 columns narrow the range that the codes of a group span (of normal weights to about 0.88 and 0.76
of that of 64), and scales of their own in half precision are met more closely than eight bits of a row's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

from tailorbird.allocate.uniform import outside
from tailorbird.anatomy.part import Part
from tailorbird.formats import PlaneSpec, Spec
from tailorbird.formats.spec import MAX_BITS

# Columns of a group by steps above eight bits; the last step has half scales too.
GROUPS = (32, 16, 16)
LEVELS = MAX_BITS + len(GROUPS)
# What half scales leave of the loss at eight bits: 0.77 to 0.87 by role in Gemma 3 270M, where a row's scales differ.
HALF_SCALES = 0.82


def finer(spec: Spec, steps: int) -> Spec:
    """A format of affine planes with finer scales.

    Args:
        spec: the format; one that is no affine planes comes back as it is.
        steps: above eight bits; 0 or less is none.
    """
    if steps < 1 or not isinstance(spec, PlaneSpec):
        return spec
    size = GROUPS[steps - 1]
    if size < spec.group_size and spec.group_size % size == 0:
        spec = replace(spec, bits=(max(spec.bits),) * (spec.cols // size), group_size=size)
    return replace(spec, scale="fp16") if steps == len(GROUPS) else spec


def left(spec: Spec, coarse: Spec) -> float:
    """The share of the loss of a format of eight bits that a `finer` one leaves, as of normal weights.

    Args:
        spec: the finer format; one that is no finer leaves all.
        coarse: the format at eight bits, or at fewer, with the scales of that one.
    """
    if not isinstance(spec, PlaneSpec) or not isinstance(coarse, PlaneSpec):
        return 1.0
    wide = coarse.group_size
    span = _span(spec.group_size) / _span(wide) if spec.group_size < wide else 1.0
    return span**2 * (HALF_SCALES if spec.scale == "fp16" and coarse.scale != "fp16" else 1.0)


def _span(count: int) -> float:
    """The largest of so many normal numbers, as expected (Blom, 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def topped(
    specs: Mapping[str, Spec],
    parts: Sequence[Part],
    spec_of: Callable[[Part, int], Spec],
    cost_of: Callable[[Part, Spec], int],
    limit: int,
) -> Mapping[str, Spec]:
    """Formats by part name that use what the largest plan of whole bits leaves of a limit.

    Args:
        specs: what is chosen where that plan does not fit.
        parts: what is to be stored.
        spec_of: the format of a part at up to `LEVELS` bits.
        cost_of: bytes of a part in a format.
        limit: bytes for all parts together.
    """
    found = {part.name: spec_of(part, MAX_BITS) for part in parts}
    left = limit - sum(cost_of(part, found[part.name]) for part in parts)
    if left < 0:
        return specs
    for level in range(MAX_BITS + 1, LEVELS + 1):
        for part in sorted(parts, key=outside):
            raised = spec_of(part, level)
            step = cost_of(part, raised) - cost_of(part, found[part.name])
            if 0 < step <= left:
                found[part.name], left = raised, left - step
    return found
