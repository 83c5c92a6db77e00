"""Any module of linear layers, given in memory: one block, no embedding and no head."""

from tailorbird.anatomy.anatomy import Anatomy

GENERIC = Anatomy(name="generic", model_types=(), blocks="")
