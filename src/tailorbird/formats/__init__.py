"""How a compressed weight is stored: a small family of formats. The first is bit planes with scales and offsets by
group."""

from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.family import bit_planes, plane_spec, spec_from_json
from tailorbird.formats.packed import Fit, PackedWeight, Spec
from tailorbird.formats.rows import RowSpec
from tailorbird.formats.spec import PlaneSpec

__all__ = [
    "BitPlanes",
    "Fit",
    "PackedWeight",
    "PlaneSpec",
    "RowSpec",
    "Spec",
    "bit_planes",
    "plane_spec",
    "spec_from_json",
]
