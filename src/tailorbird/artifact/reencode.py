"""Putting packed weights into other formats: exactly where the new one is only wider, else by rounding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tailorbird.allocate.rules import Rules
from tailorbird.anatomy import Part
from tailorbird.artifact.reader import Artifact, Shape
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import BitPlanes, PlaneSpec
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

    def planes(self, part: str, start: int = 0, stop: int | None = None) -> BitPlanes:
        """One part in its new format, or some rows of it."""
        return converted(self.origin.planes(part, start, stop), self.plan.specs[part])


def nearest(plan: Plan, rules: Rules) -> dict[str, PlaneSpec]:
    """The nearest formats that obey the rules; tied parts take the widest of theirs."""
    near = {part.name: rules.carried(part, plan.specs[part.name]) for part in plan.parts}
    for unit in rules.units(plan.parts):
        widest = max((near[part.name] for part in unit), key=lambda spec: (max(spec.bits), -spec.group_size))
        if any(near[part.name] != widest for part in unit):
            asymmetric = any(near[part.name].offset != "none" for part in unit)
            widest = replace(widest, offset="integer") if asymmetric and widest.offset == "none" else widest
            near |= {part.name: rules.carried(part, widest) for part in unit}
    return near


def converted(planes: BitPlanes, spec: PlaneSpec) -> BitPlanes:
    """A packed weight in another format of the same row.

    Where every group's codes and zero points fit as they are, they are kept and only stored wider; else the weight
    is rounded to the nearest code of each group's range.
    """
    if planes.spec == spec:
        return planes
    if only_wider(planes.spec, spec):
        wide = integers(planes, max(spec.bits))
        zeros = wide.scale.new_full((), 2 ** (max(spec.bits) - 1)) if wide.zeros is None else wide.zeros
        units = Units(planes.arrays.get("row_scales", torch.empty(0)), torch.empty(0))
        return BitPlanes.pack(wide.codes, Grid.store(wide.scale, -wide.scale * zeros, spec, units), spec)
    return sweep(planes.dequantize(), spec, minmax).pack()


def only_wider(old: PlaneSpec, new: PlaneSpec) -> bool:
    """`converted` keeps every code, zero point and scale."""
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


def spec_label(part: Part, spec: PlaneSpec) -> str:
    """A format in a few words."""
    low, high = min(spec.bits), max(spec.bits)
    bits = f"{low} bits" if low == high else f"{low} to {high} bits mixed"
    groups = "rows" if spec.group_size == part.shape[1] else f"groups of {spec.group_size}"
    offset = {"none": "symmetric", "integer": "zero points", "float": "float offsets"}[spec.offset]
    order = ", column order" if spec.column_order else ""
    return f"{bits}, {groups}, {offset}, {spec.scale} scales{order}"
