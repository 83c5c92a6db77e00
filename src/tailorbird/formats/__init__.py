"""How a compressed weight is stored: a small family of formats. Most are bit planes with scales by group, alone or
added up."""

from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.family import (
    above_eight,
    affine,
    between,
    bit_planes,
    eight,
    plane_spec,
    spec_from_json,
    widths,
)
from tailorbird.formats.levels import LevelCodes, LevelSpec
from tailorbird.formats.packed import Fit, PackedWeight, Spec
from tailorbird.formats.rows import RowSpec
from tailorbird.formats.spec import PlaneSpec
from tailorbird.formats.sums import PlaneSum, SumSpec, Term
from tailorbird.formats.trellis import TrellisCodes, TrellisSpec

__all__ = [
    "BitPlanes",
    "Fit",
    "LevelCodes",
    "LevelSpec",
    "PackedWeight",
    "PlaneSpec",
    "PlaneSum",
    "RowSpec",
    "Spec",
    "SumSpec",
    "Term",
    "TrellisCodes",
    "TrellisSpec",
    "above_eight",
    "affine",
    "between",
    "bit_planes",
    "eight",
    "plane_spec",
    "spec_from_json",
    "widths",
]
