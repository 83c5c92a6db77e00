"""`Plan`: what was decided for every part. Plain data: printed, edited by hand, saved as JSON, applied again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tailorbird.anatomy.part import Part, Role
from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.formats import Spec, spec_from_json
from tailorbird.formats.family import groups_in

VERSION = 1
_MAX_DIM = 2**31
# Groups of a row, over all parts: bits are kept for each, and a plan of a few bytes must not ask for gigabytes.
_MAX_GROUPS = 2**25


@dataclass(frozen=True)
class Plan:
    """The format of every part.

    Attributes:
        method: name of the method that fits the parts.
        options: its options, as plain data.
        parts: what is compressed, embedding first, head last.
        specs: format by part name.
    """

    method: str
    options: Mapping[str, Any]
    parts: Sequence[Part]
    specs: Mapping[str, Spec]

    @property
    def numel(self) -> int:
        """Weights that bits are counted over."""
        return sum(part.numel for part in self.parts if not part.copy_of)

    @property
    def code_bytes(self) -> int:
        """Bytes of all packed parts, by the real packer on the meta device, without file headers."""
        return sum(self.part_bytes(part) for part in self.parts)

    def part_bytes(self, part: Part) -> int:
        """Bytes of one packed part."""
        return self.specs[part.name].plan(part.shape[0]).nbytes

    def to_json(self) -> dict[str, Any]:
        """Plain data for plan.json."""
        return {
            "version": VERSION,
            "method": self.method,
            "options": dict(self.options),
            "parts": [_part_json(part) | {"format": self.specs[part.name].to_json()} for part in self.parts],
        }

    @classmethod
    def from_json(cls, data: Any, *, error: type[TailorbirdError] = UsageError, stored: int = 2**62) -> Plan:
        """Read `to_json` back, checking everything.

        Args:
            data: parsed JSON.
            error: what to raise.
            stored: bytes there are; a plan that needs more weights or groups than they can hold is refused before
                any is made.

        Raises:
            error: a field is missing, unknown or out of range; the message names the part.
        """
        try:
            if data["version"] != VERSION:
                raise error(
                    f"plan version {data['version']!r} is not {VERSION}",
                    hint="use the tailorbird that wrote it",
                )
            if not isinstance(data["method"], str) or not isinstance(data["options"], dict):
                raise TypeError("method or options")
            parts = [_part_from_json(entry) for entry in data["parts"]]
            formats = [entry["format"] for entry in data["parts"]]
            _check_sizes(parts, formats, stored, error)
            specs = {part.name: _spec(part, form, error) for part, form in zip(parts, formats, strict=True)}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as cause:
            raise error(
                f"this is not a plan: {type(cause).__name__}: {cause}", hint="make one with --dry-run --json"
            ) from cause
        if not parts or len(specs) != len(parts):
            raise error("a plan needs parts, each once", hint="make one with --dry-run --json")
        shapes = {part.name: part.shape for part in parts if not part.copy_of}
        for part in parts:
            if part.copy_of and shapes.get(part.copy_of) != part.shape:
                raise error(f"part {part.name} is no copy of {part.copy_of!r}", hint="make one with --dry-run --json")
        return cls(data["method"], data["options"], parts, specs)


def _check_sizes(parts: Sequence[Part], formats: Sequence[Any], stored: int, error: type[TailorbirdError]) -> None:
    """A weight takes a bit at least, a group of a row a byte."""
    try:
        groups = [groups_in(form, part.shape[1]) for part, form in zip(parts, formats, strict=True)]
    except UsageError as cause:
        raise error(f"this is not a plan: {cause.message}", hint=cause.hint) from cause
    of_rows = sum(part.shape[0] * count for part, count in zip(parts, groups, strict=True))
    if sum(part.numel for part in parts) > 8 * stored or of_rows > stored or sum(groups) > _MAX_GROUPS:
        raise error(
            "the plan has more weights or groups than the files can hold",
            hint="the plan belongs to other files",
        )


def _spec(part: Part, form: Any, error: type[TailorbirdError]) -> Spec:
    try:
        spec = spec_from_json(form, part.shape[1])
        spec.plan(part.shape[0])  # refuses formats of other rows
        return spec
    except (UsageError, TypeError) as cause:
        raise error(f"part {part.name}: {cause}", hint=getattr(cause, "hint", "") or "edit the plan") from cause


def _part_json(part: Part) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": part.name,
        "shape": list(part.shape),
        "role": part.role,
        "block": part.block,
    }
    if part.expert is not None:
        data["expert"] = part.expert
    if part.uses != 1:
        data["uses"] = part.uses
    if part.tied:
        data["tied"] = list(part.tied)
    if part.copy_of:
        data["copy_of"] = part.copy_of
    return data


def _part_from_json(data: Mapping[str, Any]) -> Part:
    rows, cols = data["shape"]
    numbers = [rows, cols, data.get("uses", 1)] + [
        data[key] for key in ("block", "expert") if data.get(key) is not None
    ]
    if (
        not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MAX_DIM for n in numbers)
        or not rows * cols
    ):
        raise ValueError(f"shape, block, expert and uses must be natural numbers: {dict(data)}")
    tied, copy_of = data.get("tied", []), data.get("copy_of", "")
    if (
        not isinstance(tied, list)
        or data["role"] not in get_args(Role)
        or not all(isinstance(name, str) for name in [data["name"], copy_of, *tied])
    ):
        raise ValueError(f"role or names of {dict(data)}")
    return Part(
        data["name"],
        (rows, cols),
        data["role"],
        data["block"],
        data.get("expert"),
        data.get("uses", 1),
        tuple(tied),
        copy_of,
    )
