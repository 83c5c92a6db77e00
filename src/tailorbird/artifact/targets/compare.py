"""Comparing what a target's library reads back with the artifact, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from tailorbird.artifact.folder import CHUNK
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.target import Check
from tailorbird.errors import ArtifactError
from tailorbird.formats import bit_planes
from tailorbird.formats.integers import product


class Comparison:
    """Errors of the tensors seen so far.

    Args:
        artifact: what was written; packed weights are compared as `product` unpacks them where `packed` names them.
        tolerance: largest |W' - W| allowed, over the largest |W| of the tensor.
        why: the reason for it.
        packed: names of parts the target keeps packed.
    """

    def __init__(self, artifact: Artifact, tolerance: float = 0.0, why: str = "", packed: Collection[str] = ()) -> None:
        self.artifact, self.tolerance, self.why, self.packed = artifact, tolerance, why, packed
        self.seen: set[str] = set()
        self.error = 0.0

    def rows(self, name: str, read: Callable[[int, int], Tensor]) -> None:
        """Compare a tensor of the model; `read` gives rows from low to high as the target's library has them, a
        single number as one row.

        Raises:
            ArtifactError: no tensor of the artifact, another shape, or a difference beyond the tolerance.
        """
        if name not in self.artifact.tensors:
            raise ArtifactError(f"the export has a tensor {name!r} the artifact has not", hint="please report this")
        shape = self.artifact.tensors[name].shape
        lost = largest = 0.0
        rows = shape[0] if shape else 1
        step = max(1, CHUNK * rows // max(1, _numel(shape)))
        for low in range(0, rows, step):
            high = min(low + step, rows)
            want = self._want(name, low, high) if shape else self.artifact.read(name).float()[None]
            got = read(low, high).float()
            if got.shape != want.shape:
                raise ArtifactError(f"{name} came back as {tuple(got.shape)}", hint="please report this")
            lost = max(lost, float((got - want).abs().amax())) if want.numel() else lost
            largest = max(largest, float(want.abs().amax())) if want.numel() else largest
        error = lost / largest if largest else lost
        if not error <= self.tolerance:
            raise ArtifactError(
                f"{name} differs from the artifact by {error:.3g} of its largest value, "
                f"{self.tolerance:.3g} is allowed",
                hint="please report this",
            )
        self.seen.add(name)
        self.error = max(self.error, error)

    def _want(self, name: str, low: int, high: int) -> Tensor:
        part = name.removesuffix(".weight")
        if part in self.packed:
            return product(bit_planes(self.artifact.planes(part, low, high)))
        return self.artifact.read_rows(name, low, high).float()

    def result(self, library: str, *notes: str) -> Check:
        """What was found.

        Raises:
            ArtifactError: a tensor of the artifact was not seen.
        """
        if missing := set(self.artifact.tensors) - self.seen:
            raise ArtifactError(f"the export lacks {min(missing)!r}", hint="please report this")
        exact = self.error == 0
        return Check(library, len(self.seen), exact, self.error, self.tolerance, "" if exact else self.why, notes)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
