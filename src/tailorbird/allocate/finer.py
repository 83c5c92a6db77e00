"""Above eight bits: a second term divides the steps of eight-bit codes (`SumSpec.finer`).

A ninth bit leaves a quarter of the loss and takes a bit and an eighth in groups of 64. Finer scales would take less,
but buy no more with it: of normal weights, groups of 32 columns leave 0.80 of the loss for a quarter of a bit and
groups of 16 0.63 for three quarters, a ninth bit in as many groups as that pays for 0.85 and 0.58.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tailorbird.allocate.uniform import outside
from tailorbird.anatomy.part import Part
from tailorbird.formats import PlaneSpec, Spec, SumSpec, between
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
            now = found[part.name]
            for raised in _raised(part, now, spec_of(part, level)):
                step = cost_of(part, raised) - cost_of(part, now)
                if 0 < step <= left:
                    found[part.name], left = raised, left - step
                    break
    return found


def _raised(part: Part, now: Spec, above: Spec) -> Iterator[Spec]:
    """A bit more; of an embedding or a head, which are large, in as many of the last groups as there is room for."""
    yield above
    for keep in range(1, now.cols // getattr(now, "group_size", now.cols) if outside(part) else 1):
        mixed = between(now, above, keep)
        if mixed is not None:
            yield mixed
