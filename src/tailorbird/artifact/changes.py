"""What a target can't carry: which parts, and what the nearest format loses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.anatomy import Model, Part
from tailorbird.artifact.folder import CHUNK
from tailorbird.artifact.offer import local_original
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.reencode import only_wider
from tailorbird.artifact.targets.target import Told
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError, TailorbirdError
from tailorbird.formats import Spec


@dataclass(frozen=True)
class Change:
    """A part the target can't carry as it is.

    Attributes:
        part: the part.
        old: its format in the artifact.
        new: the nearest the target carries.
        lost: |W' - W| / |W|, Frobenius norms: what the new format changes.
        before: the same of the artifact against the original model, where that could be read.
        after: the same of the new format against the original.
    """

    part: Part
    old: Spec
    new: Spec
    lost: float
    before: float | None = None
    after: float | None = None

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of the old and of the new format, as an artifact stores them."""
        old, new = (spec.plan(self.part.shape[0]).nbytes for spec in (self.old, self.new))
        return old, new


def changes(artifact: Artifact, source: Artifact, original: str | Path | None, told: Told) -> Iterator[Change]:
    """What differs between an artifact and the same in other formats, part by part, against the original too where it
    can be read."""
    if source is artifact:
        return
    model = _original(artifact, original)
    changed = [part for part in artifact.plan.parts if source.plan.specs[part.name] != artifact.plan.specs[part.name]]
    for number, part in enumerate(changed):
        told("comparing formats", number, len(changed))
        yield _change(part, artifact, source, model)


def _change(part: Part, artifact: Artifact, source: Artifact, model: Model | None) -> Change:
    """Squared norms are summed over a few rows at a time."""
    lost = size = before = after = whole = 0.0
    step = max(1, CHUNK // part.shape[1])
    for low in range(0, part.shape[0], step):
        high = min(low + step, part.shape[0])
        old = artifact.planes(part.name, low, high).dequantize()
        new = source.planes(part.name, low, high).dequantize()
        lost, size = lost + float((new - old).square().sum()), size + float(old.square().sum())
        if model is not None:
            weight = model.read_rows(part, low, high).float()
            before, after = before + float((old - weight).square().sum()), after + float((new - weight).square().sum())
            whole += float(weight.square().sum())
    specs = artifact.plan.specs[part.name], source.plan.specs[part.name]
    # Products of wider codes may be rounded otherwise in their last bit, which is no loss.
    share = 0.0 if only_wider(*specs) else _ratio(lost, size)
    if model is None:
        return Change(part, *specs, share)
    return Change(part, *specs, share, _ratio(before, whole), _ratio(after, whole))


def _ratio(lost: float, whole: float) -> float:
    return math.sqrt(lost / whole) if whole else math.sqrt(lost)


def _original(artifact: Artifact, given: str | Path | None) -> Model | None:
    """The model the artifact was made from; a recipe's is taken only where nothing has to be fetched for it."""
    if given is not None:
        return _same(artifact, Model.open(open_checkpoint(given)))
    name = local_original(artifact)
    try:
        return None if name is None else _same(artifact, Model.open(open_checkpoint(name)))
    except (TailorbirdError, OSError):
        return None


def _same(artifact: Artifact, model: Model) -> Model:
    """The model, if it has the artifact's parts.

    Raises:
        ModelError: it has others.
    """
    if list(model.parts) != list(artifact.plan.parts):
        raise ModelError(
            f"{artifact.folder} was not made from {model.source}: their parts differ",
            hint="name the right model with --original, or leave it out",
        )
    return model


def grouped(found: Sequence[Change]) -> list[dict[str, Any]]:
    """Changes of the same kind together: role, formats, parts, bytes, and the largest losses."""
    kinds: dict[tuple[str, str, str], list[Change]] = {}
    for change in found:
        key = (change.part.role, change.old.label, change.new.label)
        kinds.setdefault(key, []).append(change)

    def largest(members: list[Change], name: str) -> float | None:
        values = [getattr(member, name) for member in members]
        return None if None in values else max(values)

    return [
        {
            "role": role,
            "parts": len(members),
            "from": old,
            "to": new,
            "bytes": [sum(member.nbytes[i] for member in members) for i in (0, 1)],
            "lost": largest(members, "lost"),
            "artifact_error": largest(members, "before"),
            "export_error": largest(members, "after"),
        }
        for (role, old, new), members in kinds.items()
    ]


def refusal(target: str, artifact: Artifact, found: Sequence[Change]) -> str:
    """Why an export stops, with a line for every kind of change."""
    lines = [f"{target} can't carry {len(found)} of {len(artifact.plan.parts)} parts as they are:"]
    for row in grouped(found):
        lost = f"loses up to {row['lost']:.2%} of the weights' norm" if row["lost"] else "loses nothing"
        lines.append(
            f"  {row['parts']} {row['role']}: {row['from']} -> {row['to']}; "
            f"{row['bytes'][0]:,} -> {row['bytes'][1]:,} bytes, {lost}"
        )
    return "\n".join(lines)
