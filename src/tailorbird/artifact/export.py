"""`export`: an artifact in the form of another runtime, compared with the artifact by that runtime's own library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tailorbird.artifact import targets
from tailorbird.artifact.changes import Change, changes, refusal
from tailorbird.artifact.offer import Advise, Offer, unsolved
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.record import Record, files_of
from tailorbird.artifact.reencode import Reencoded
from tailorbird.artifact.targets.target import Check, Target, Told
from tailorbird.budget import Budget
from tailorbird.errors import BudgetError, UsageError
from tailorbird.files import atomic_folder


@dataclass(frozen=True)
class Exported:
    """What an export gave.

    Attributes:
        folder: where it lies.
        target: the runtime it is for.
        nbytes: bytes of its files.
        artifact_nbytes: bytes of the artifact.
        digest: of its record.
        changes: parts that were put into another format; empty where the target carries all.
        check: what the target's own library found.
        offer: what avoids the changes, where there are any.
    """

    folder: Path
    target: str
    nbytes: int
    artifact_nbytes: int
    digest: str
    changes: tuple[Change, ...]
    check: Check
    offer: Offer | None = None

    @property
    def advice(self) -> str:
        """The command that avoids the changes, where there are any."""
        return self.offer.text if self.offer else ""

    @property
    def exact(self) -> bool:
        """No weight differs from the artifact's."""
        return self.check.exact and not any(change.lost for change in self.changes)


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def export(
    artifact: str | Path | Artifact,
    out: str | Path,
    to: str,
    *,
    options: Mapping[str, Any] | None = None,
    reencode: bool = False,
    original: str | Path | None = None,
    budget: str | None = None,
    advise: Advise = unsolved,
    told: Told = _silent,
) -> Exported:
    """Write an artifact in the form of another runtime and have that runtime's library compare it.

    Args:
        artifact: its folder, or opened.
        out: the folder to make; it must not exist.
        to: name of a target.
        options: options of the target.
        reencode: where the target can't carry a format without losing something, take the nearest it can. Codes that
            only have to be stored wider lose nothing and need no permission.
        original: the model the artifact was made from, to say how far it is from that; by default what the
            artifact's recipe names, where that is on this machine.
        budget: bytes the exported files may take, such as ``150MB``.
        advise: makes the offer of a plan solved anew, where weights change; by default only names the command.
        told: told about the progress.

    Raises:
        UsageError: `out` exists, or the target can't carry the artifact and `reencode` is not given; the hint is the
            command that makes an artifact it can carry.
        BudgetError: the files would take more than the budget; none was written.
        ArtifactError: the artifact is damaged, or the export differs from it.
        MissingExtra: the target's library is not installed.
        ResourceError: the disk is full; nothing is left of the export.
    """
    opened = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    out, target = Path(out), targets.find(to, **dict(options or {}))
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
    target.refuse(opened)
    source = Reencoded.under(opened, target.rules(opened.plan.parts))
    found = tuple(changes(opened, source, original, told))
    offer = advise(to, opened, source, original, 0.0) if found else None
    if offer and any(change.lost for change in found) and not reencode:
        both = f"\n{offer.comparison}" if offer.comparison else ""
        raise UsageError(refusal(to, opened, found) + both, hint=f"{offer.text}; or go on with --reencode")
    afford(target, source, budget)
    with atomic_folder(out) as folder:
        target.write(source, folder, told)
        _within(sum(path.stat().st_size for path in folder.iterdir()), budget, opened)
        check = target.check(source, folder)
        exact = check.exact and not any(change.lost for change in found)
        files = files_of(folder)
        record = Record(to, asdict(target), opened.digest, check.library, exact, opened.plan.numel, files)
        record.write(folder)
    # Weights of the original fitted into the target's types are no longer the plan's.
    if target.solved_as and not check.exact and type(opened) is Artifact:
        offer = replace(advise(target.solved_as, opened, source, original, check.lost), exported=record.nbytes)
    return Exported(out, to, record.nbytes, opened.nbytes, record.digest, found, check, offer)


def afford(target: Target, artifact: Artifact, budget: str | None) -> None:
    """Refuse an export whose files would take more than a budget such as ``150MB``; None allows any.

    Raises:
        UsageError: the budget is not one in bytes.
        BudgetError: it would be exceeded.
    """
    if budget is not None:
        _within(target.planned_bytes(artifact), budget, artifact)


def _within(nbytes: int | None, budget: str | None, artifact: Artifact) -> None:
    if nbytes is None or budget is None:
        return
    most = Budget.parse(budget).nbytes
    if most is None:
        raise UsageError(f"an export's budget is in bytes, not {budget!r}", hint="write 150MB, 900kB or 1.5GiB")
    if nbytes > most:
        share = artifact.nbytes * most // nbytes
        raise BudgetError(
            f"the export takes {nbytes:,} bytes, the artifact {artifact.nbytes:,}; the budget {budget} allows {most:,}",
            hint=f"compress to about {share // 1000}kB and export that, or take another target or its options (--set)",
        )
