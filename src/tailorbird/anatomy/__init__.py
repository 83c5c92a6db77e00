"""What models are made of: families, their blocks, and the parts that can be compressed."""

from tailorbird.anatomy.anatomy import Anatomy
from tailorbird.anatomy.model import Model
from tailorbird.anatomy.part import Part
from tailorbird.anatomy.wiring import Wiring

__all__ = ["Anatomy", "Model", "Part", "Wiring"]
