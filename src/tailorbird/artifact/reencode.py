"""Putting packed weights into other formats: exactly where the new one is only wider, else by rounding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tailorbird.allocate.rules import Rules
from tailorbird.artifact.reader import Artifact, Shape
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PackedWeight, PlaneSpec, Spec, plane_spec
from tailorbird.formats.grid import Grid, Units
from tailorbird.formats.integers import integers
from tailorbird.formats.safetensors_header import TensorInfo
from tailorbird.plan import Plan


@dataclass(frozen=True)
class Reencoded(Artifact):
    """An artifact whose parts are read in other formats than they are stored in.

    Attributes:
        origin: the artifact as it is.
    """

    origin: Artifact

    @classmethod
    def under(cls, artifact: Artifact, rules: Rules) -> Artifact:
        """An artifact in the nearest formats that obey `rules`; itself where its own do."""
        specs = nearest(artifact.plan, rules)
        if specs == dict(artifact.plan.specs):
            return artifact
        plan = replace(artifact.plan, specs=specs)
        return cls(artifact.folder, artifact.manifest, artifact.config, plan, artifact.stored, artifact)

    @property
    def tensors(self) -> dict[str, Shape | TensorInfo]:
        """Every tensor of the model by its name in the model, with its shape."""
        return dict(self.origin.tensors)

    def planes(self, part: str, start: int = 0, stop: int | None = None) -> PackedWeight:
        """One part in its new format, or some rows of it."""
        return converted(self.origin.planes(part, start, stop), self.plan.specs[part])


def nearest(plan: Plan, rules: Rules) -> dict[str, Spec]:
    """The nearest formats that obey the rules; tied parts take the widest of theirs."""
    near = {part.name: rules.carried(part, plan.specs[part.name]) for part in plan.parts}
    for unit in rules.units(plan.parts):
        if any(near[part.name] != near[unit[0].name] for part in unit):
            tied = [plane_spec(near[part.name]) for part in unit]
            widest = max(tied, key=lambda spec: (max(spec.bits), -spec.group_size))
            asymmetric = any(spec.offset != "none" for spec in tied)
            widest = replace(widest, offset="integer") if asymmetric and widest.offset == "none" else widest
            near |= {part.name: rules.carried(part, widest) for part in unit}
    return near


def converted(planes: PackedWeight, spec: Spec) -> PackedWeight:
    """A packed weight in another format of the same row.

    Where every group's codes and zero points fit as they are, they are kept and only stored wider; else the weight
    is rounded to the nearest code of each group's range.
    """
    if planes.spec == spec:
        return planes
    spec = plane_spec(spec)
    if isinstance(planes, BitPlanes) and only_wider(planes.spec, spec):
        wide = integers(planes, max(spec.bits))
        zeros = wide.scale.new_full((), 2 ** (max(spec.bits) - 1)) if wide.zeros is None else wide.zeros
        units = Units(planes.arrays.get("row_scales", torch.empty(0)), torch.empty(0))
        return BitPlanes.pack(wide.codes, Grid.store(wide.scale, -wide.scale * zeros, spec, units), spec)
    return sweep(planes.dequantize(), spec, minmax).pack()


def only_wider(old: Spec, new: Spec) -> bool:
    """`converted` keeps every code, zero point and scale."""
    if not isinstance(old, PlaneSpec) or not isinstance(new, PlaneSpec):
        return False
    one_bit = any(bits == 1 for bits in old.bits)
    return (
        new.offset in (old.offset, "integer")
        and old.offset != "float"
        and len(set(new.bits)) == 1
        and (old.scale, old.group_size) == (new.scale, new.group_size)
        and not old.column_order
        and not new.column_order
        and not one_bit
        and all(a <= b for a, b in zip(old.bits, new.bits, strict=True))
    )
