"""`Rules`: what formats must obey beside the budget, when a runtime is to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tailorbird.anatomy.part import Part
from tailorbird.formats import Spec

Carried = Callable[[Part, Spec], Spec]


def anything(part: Part, spec: Spec) -> Spec:
    """No rule: every format stays as it is."""
    return spec


@dataclass(frozen=True)
class Rules:
    """What formats must obey.

    Attributes:
        carried: the nearest format that is allowed for a part; an allowed one comes back as it is.
        ties: names of parts that must have one and the same format; a part stands in one group at most.
        planned: what a plan has in place of a format, where that is less than all that is carried; None: `carried`.
    """

    carried: Carried = anything
    ties: Sequence[tuple[str, ...]] = ()
    planned: Carried | None = None

    def chosen(self, part: Part, spec: Spec) -> Spec:
        """What a plan has in place of a format."""
        return (self.planned or self.carried)(part, spec)

    def allows(self, part: Part, spec: Spec) -> bool:
        """A plan may choose this format for the part."""
        return self.chosen(part, spec) == spec

    def tied(self, part: Part) -> bool:
        """Another part must have the same format."""
        return any(part.name in group and len(group) > 1 for group in self.ties)

    def units(self, parts: Sequence[Part]) -> list[list[Part]]:
        """Parts that change together, each at the place of its first."""
        group_of = {name: group for group in self.ties for name in group}
        found: dict[tuple[str, ...], list[Part]] = {}
        for part in parts:
            found.setdefault(group_of.get(part.name, (part.name,)), []).append(part)
        return list(found.values())


FREE = Rules()
