"""The kinds of formats there are, and reading them from plan.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from tailorbird.errors import UsageError
from tailorbird.formats.bitplanes import BitPlanes
from tailorbird.formats.levels import LevelSpec
from tailorbird.formats.packed import PackedWeight, Spec
from tailorbird.formats.rows import RowSpec, entries
from tailorbird.formats.spec import MAX_BITS, PlaneSpec
from tailorbird.formats.sums import SumSpec
from tailorbird.formats.trellis import TrellisSpec

_ELSE = "take --to hf, which carries any format, or solve the plan anew with --target"


class Kind(Protocol):
    """A class of specs."""

    def groups_in(self, data: Mapping[str, Any], cols: int) -> int:
        """Groups of a row that `from_json` would keep numbers for, cheaply: what comes from outside may ask for
        gigabytes."""
        ...

    def from_json(self, data: Mapping[str, Any], cols: int) -> Spec:
        """Read a spec's `to_json` back for a row of `cols` columns.

        Raises:
            UsageError: unknown keys, or values the format can't hold.
        """
        ...


class _Rows:
    """`RowSpec`, whose classes are of any other kind."""

    @staticmethod
    def groups_in(data: Mapping[str, Any], cols: int) -> int:
        """Groups of a row of the class that has most."""
        return max(groups_in(form, cols) for _, form in entries(data))

    @staticmethod
    def from_json(data: Mapping[str, Any], cols: int) -> RowSpec:
        """Every class by its own kind."""
        classes = entries(data)
        return RowSpec(tuple(rows for rows, _ in classes), tuple(spec_from_json(form, cols) for _, form in classes))


KINDS: dict[str, Kind] = {spec.kind: spec for spec in (PlaneSpec, SumSpec, LevelSpec, TrellisSpec)}
KINDS[RowSpec.kind] = _Rows()


def spec_from_json(data: Mapping[str, Any], cols: int) -> Spec:
    """Read a format for a row of `cols` columns; one without a kind is of planes.

    Raises:
        UsageError: an unknown kind or unknown keys, or values the format can't hold.
    """
    return _kind(data).from_json({key: value for key, value in data.items() if key != "kind"}, cols)


def groups_in(data: Mapping[str, Any], cols: int) -> int:
    """Groups of a row that a format from outside asks for."""
    return _kind(data).groups_in(data, cols)


def between(low: Spec, high: Spec, cut: int) -> Spec | None:
    """A format with the bits of `low` in its first `cut` groups and those of `high` in the others; None where the two
    differ in more than their bits, or have none by group."""
    if isinstance(high, SumSpec):
        return _between_finer(low, high, cut)
    for kind, name in ((PlaneSpec, "bits"), (TrellisSpec, "halves")):
        if isinstance(low, kind) and isinstance(high, kind):
            ours, theirs = getattr(low, name), getattr(high, name)
            same = replace(low, **{name: theirs}) == high
            return replace(low, **{name: ours[:cut] + theirs[cut:]}) if same else None
    return None


def _between_finer(low: Spec, high: SumSpec, cut: int) -> SumSpec | None:
    """The same above eight bits."""
    base = high.terms[0].spec
    less = low.more if isinstance(low, SumSpec) else (0,) * high.groups
    return SumSpec.finer(base, less[:cut] + high.more[cut:]) if eight(low) == base and less and high.more else None


def widths(spec: Spec) -> tuple[int, ...]:
    """Whole bits that stand for a format's: of each group, of half a bit the numbers on either side, or their mean."""
    if isinstance(spec, PlaneSpec):
        return spec.bits
    if isinstance(spec, TrellisSpec):
        return tuple(bits for halves in spec.halves for bits in (halves // 2, (halves + 1) // 2))
    if isinstance(spec, SumSpec) and spec.more:
        return tuple(MAX_BITS + bits for bits in spec.more)
    return (round(spec.mean_bits),)


def above_eight(spec: Spec) -> bool:
    """Whether some groups have more bits than codes have."""
    return isinstance(spec, SumSpec) and bool(spec.more)


def eight(spec: Spec) -> Spec:
    """The eight bits of a format of more than eight; any other format as it is."""
    return spec.terms[0].spec if isinstance(spec, SumSpec) and spec.more else spec


def plane_spec(spec: Spec) -> PlaneSpec:
    """A spec of affine planes.

    Raises:
        UsageError: it is of another kind.
    """
    if not isinstance(spec, PlaneSpec):
        raise UsageError(f"affine planes are needed here, the format is {spec.label}", hint=_ELSE)
    return spec


def affine(spec: Spec) -> PlaneSpec:
    """The nearest format of affine planes."""
    return plane_spec(spec.affine)


def bit_planes(weight: PackedWeight) -> BitPlanes:
    """A weight of affine planes.

    Raises:
        UsageError: it is of another kind.
    """
    plane_spec(weight.spec)
    assert isinstance(weight, BitPlanes)
    return weight


def _kind(data: Mapping[str, Any]) -> Kind:
    name = data.get("kind", PlaneSpec.kind)
    if not isinstance(name, str) or name not in KINDS:
        raise UsageError(f"there is no kind of format {str(name)[:40]!r}", hint=f"kinds: {', '.join(KINDS)}")
    return KINDS[name]
