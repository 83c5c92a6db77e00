"""How a compressed weight is stored: bit planes with per-group scales and offsets."""

from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.spec import PlaneSpec

__all__ = ["BitPlanes", "PlaneSpec"]
