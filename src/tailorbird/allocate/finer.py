"""Above eight bits: a second term divides the steps of eight-bit codes (`SumSpec.finer`).

A ninth bit leaves a quarter of the loss and takes a bit and an eighth in groups of 64. Finer scales would take less,
but buy no more with it: of normal weights, groups of 32 columns leave 0.80 of the loss for a quarter of a bit and
groups of 16 0.63 for three quarters, a ninth bit in as many groups as that pays for 0.85 and 0.58.
"""

from __future__ import annotations

from tailorbird.formats import PlaneSpec, Spec, SumSpec
from tailorbird.formats.spec import MAX_BITS

# The last of them leaves a sixty-fourth of the loss, and rounding of its own scales a quarter as much again.
LEVELS = MAX_BITS + 3


def finer(spec: Spec, more: int) -> Spec:
    """A format with more bits than eight.

    Args:
        spec: the format at eight bits; one that is no affine planes of eight comes back as it is.
        more: bits above eight; 0 or less is none.
    """
    if more < 1 or not isinstance(spec, PlaneSpec) or set(spec.bits) != {MAX_BITS}:
        return spec
    return SumSpec.finer(spec, (more,) * len(spec.bits))
