"""Making sure of an artifact: read it back, compare it bit for bit with what was fitted, count its bytes, run it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tailorbird.anatomy import Model
from tailorbird.anatomy.families import anatomies
from tailorbird.artifact.forward import forward
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.artifact.manifest import Manifest, weight_digest
from tailorbird.artifact.reader import TOKENIZER, Artifact
from tailorbird.artifact.record import NAME as RECORD
from tailorbird.artifact.record import Record, check_files
from tailorbird.errors import ArtifactError, TailorbirdError
from tailorbird.formats.safetensors_header import read_tensor
from tailorbird.tasks.tokenizer import Tokenizer


@dataclass(frozen=True)
class Verified:
    """What was found: the artifact's digest, bytes and bits, and the checks that passed."""

    digest: str
    nbytes: int
    bits: float
    checks: tuple[str, ...]


def verify(folder: str | Path) -> Verified:
    """Check an artifact, or an export, in this process.

    Raises:
        ArtifactError: anything is off; the message says what and where.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists() and (folder / RECORD).exists():
        return _verify_export(folder)
    artifact = Artifact.open(folder)
    checks = [f"{len(artifact.manifest.files)} files have the sizes and digests of the manifest"]
    if set(artifact.manifest.weights) != set(artifact.plan.specs):
        raise ArtifactError(f"{folder}: manifest and plan name different parts", hint="make the artifact again")
    for part in artifact.plan.parts:
        planes = artifact.planes(part.name)
        if planes.nbytes != artifact.plan.part_bytes(part):
            raise ArtifactError(
                f"{part.name} takes {planes.nbytes} bytes, not as planned", hint="make the artifact again"
            )
        if weight_digest(planes.meaning()) != artifact.manifest.weights[part.name]:
            raise ArtifactError(f"{part.name} differs from the weight that was fitted", hint="make the artifact again")
        if not all(torch.isfinite(array).all() for array in planes.arrays.values() if array.is_floating_point()):
            raise ArtifactError(f"{part.name} has a scale or offset that is not finite", hint="make the artifact again")
    checks.append(
        f"{len(artifact.plan.parts)} packed weights equal the fitted ones bit for bit and have the planned bytes"
    )
    _check_kept(artifact)
    checks.append("all other tensors are finite")
    if any(artifact.config.get("model_type") in anatomy.model_types for anatomy in anatomies()):
        try:
            _run(artifact)
        except TailorbirdError:
            raise
        except Exception as cause:  # a configuration can ask for a model that builds and then can't run
            raise ArtifactError(
                f"{folder}: the model of config.json can't be run: {type(cause).__name__}: {str(cause)[:200]}",
                hint="make the artifact again",
            ) from cause
        checks.append("a forward pass gives finite numbers")
        if TOKENIZER in artifact.manifest.files:
            Tokenizer.of(artifact)
            checks.append("the tokenizer can be read")
    return Verified(artifact.digest, artifact.nbytes, artifact.bits, tuple(checks))


def _verify_export(folder: Path) -> Verified:
    """An export was compared with its artifact when it was made: now its files must still be those."""
    record = Record.read(folder)
    check_files(folder, record)
    checks = [
        f"{len(record.files)} files have the sizes and digests of the record",
        f"made for {record.target} from artifact {record.artifact}, read back by {record.library}"
        + (": no weight differs" if record.exact else ""),
    ]
    return Verified(record.digest, record.nbytes, 8 * record.nbytes / record.weights, tuple(checks))


def close(folder: Path) -> Verified:
    """Verify a just written artifact in a fresh process and mark it verified.

    Raises:
        ArtifactError: a check failed; the folder stays marked unverified.
    """
    _verify_afresh(folder)
    manifest = Manifest.read(folder).as_verified()
    manifest.write(folder)
    artifact = Artifact.open(folder, digests=False)
    return Verified(artifact.digest, artifact.nbytes, artifact.bits, ("verified in a fresh process",))


def _verify_afresh(folder: Path) -> None:
    """`verify` in a process that knows nothing of how the artifact was made."""
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise ArtifactError(
            f"{folder} failed its verification and stays marked unverified: {reason}",
            hint="please report this",
        )


def _check_kept(artifact: Artifact) -> None:
    for name in artifact.tensors:
        if name in artifact.stored:
            tensor = read_tensor(artifact.stored[name], error=ArtifactError)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ArtifactError(f"tensor {name!r} is not finite", hint="make the artifact again")


def _check_names(artifact: Artifact, model: Model) -> None:
    """The plan has the parts of the model, and the files its tensors: none less and none more."""
    own = {part.name: part for part in model.parts}
    for part in artifact.plan.parts:
        # Whose weights a head repeats is what the plan says; the model of config.json can't know.
        if own.get(part.name) != replace(part, copy_of=""):
            raise ArtifactError(
                f"{artifact.folder}: part {part.name[:200]!r} of the plan is not one of the model of config.json",
                hint="make the artifact again",
            )
    wanted = set(model.kept()) | {part.tensor for part in model.parts}
    if more := set(artifact.tensors) - wanted:
        raise ArtifactError(
            f"{artifact.folder}: tensor {min(more)[:200]!r} belongs to nothing", hint="make the artifact again"
        )


def _run(artifact: Artifact) -> None:
    """A few tokens through all blocks, one block in memory at a time, and a slice of the head."""
    model = Model.open(artifact)
    _check_names(artifact, model)
    words = next(part for part in model.parts if part.role == "embedding").shape[0]
    logits = forward(model, torch.arange(8)[None] % words, 1024)
    if not torch.isfinite(logits).all():
        raise ArtifactError(
            f"{artifact.folder}: a forward pass gives numbers that are not finite", hint="make it again"
        )


def main() -> None:
    """``python -m tailorbird.artifact.verify FOLDER``: exit code 0, or 6 with the reason on standard error."""
    try:
        verify(sys.argv[1])
    except ArtifactError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
