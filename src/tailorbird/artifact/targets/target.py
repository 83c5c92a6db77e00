"""`Target`: what a runtime accepts, and how to write it.

A target is a frozen dataclass whose fields are its options. It is given an artifact whose formats it can carry and an
empty folder; everything else (refusing, re-encoding, naming, digests) is the same for all and done by `export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tailorbird.allocate.rules import Rules
from tailorbird.anatomy import Part
from tailorbird.artifact.folder import Told
from tailorbird.artifact.reader import Artifact
from tailorbird.formats import Spec
from tailorbird.method import read_options

__all__ = ["Check", "Target", "Told"]

T = TypeVar("T", bound="Target")


@dataclass(frozen=True)
class Check:
    """What the target's own library found in a written folder.

    Attributes:
        library: what read it back, with its version.
        parts: weights that were compared with the artifact's.
        exact: no weight was changed: plain numbers are the artifact's bit for bit, and packed ones have its codes, zero
            points and scales.
        error: largest |W' - W| over the largest |W| of its part, of all parts.
        tolerance: what `error` was allowed to be, and
        why: the reason it may be above zero, for people; empty where it may not.
        notes: what else the user should know.
        logits_error: |L' - L| / |L| of the logits of some tokens, where the target ran the model.
        lost: squared error of the packed weights over their squares, where the target encodes them anew.
    """

    library: str
    parts: int
    exact: bool
    error: float = 0.0
    tolerance: float = 0.0
    why: str = ""
    notes: tuple[str, ...] = field(default=())
    logits_error: float | None = None
    lost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What all targets share. Subclasses are frozen dataclasses too; their fields are options of the export.

    `solved_as` is the name of the target whose rules leave this one nothing to encode anew, where it does that.
    """

    name: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    solved_as: ClassVar[str] = ""

    def carried(self, part: Part, spec: Spec) -> Spec:
        """The nearest format the target can carry for a part; `spec` itself where it carries that without changing a
        weight."""
        return spec

    def planned(self, part: Part, spec: Spec) -> Spec:
        """The format that a plan made for the target has in place of `spec`: carried as it is, and no larger in the
        target's files than it must be."""
        return self.carried(part, spec)

    def ties(self, parts: Sequence[Part]) -> list[tuple[str, ...]]:
        """Names of parts that must have one format, such as the members of a fused layer."""
        return []

    def refuse(self, artifact: Artifact) -> None:
        """Raise where the target can't carry the model at all, before anything is written.

        Raises:
            ModelError: the family is not supported.
        """

    def write(self, artifact: Artifact, out: Path, told: Told) -> None:
        """Write an artifact whose formats are all carried into the empty folder `out`, a few weights in memory at a
        time.

        Raises:
            MissingExtra: the extra is not installed.
        """
        raise NotImplementedError(f"target {self.name!r} has no write")

    def planned_bytes(self, artifact: Artifact) -> int | None:
        """Bytes of all files that `write` would make; None where only writing them shows it."""
        return None

    def check(self, artifact: Artifact, out: Path) -> Check:
        """Read what was written back with the target's own library and compare it with the artifact.

        Raises:
            ArtifactError: a weight differs by more than the tolerance.
        """
        raise NotImplementedError(f"target {self.name!r} has no check")

    def rules(self, parts: Sequence[Part]) -> Rules:
        """What a plan must obey so that it can be carried."""
        return Rules(self.carried, self.ties(parts), self.planned)

    @classmethod
    def from_options(cls: type[T], options: Mapping[str, Any]) -> T:
        """Build from plain data.

        Raises:
            UsageError: an unknown option or a value of the wrong type; lists what there is.
        """
        return cls(**read_options(cls, f"target {cls.name}", options))
