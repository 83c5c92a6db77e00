"""`Patch`: the difference between a shared trunk and one user's model, and what applying it means.

`apply` is pure, and holds every patch to the manifest: known tensors, permitted actions, exact shapes, finite numbers
within their bounds. A patch that changes nothing gives the trunk's own bits, whatever its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.errors import ArtifactError
from tailorbird.tailor.manifest import Action, Adaptive, Floats, Manifest, Tensors

Kind = Literal["full", "delta", "lowrank", "mask", "skip", "prototype"]
Array = npt.NDArray[Any]
Body = tuple[Array, ...]
NEEDS: dict[Kind, Action] = {
    "full": "replace", "delta": "edit", "lowrank": "edit", "mask": "mask", "skip": "skip", "prototype": "edit"
}  # fmt: skip
KINDS: tuple[Kind, ...] = tuple(NEEDS)
DTYPES = ("float32", "float16")
STEPS = 127


@dataclass(frozen=True)
class Patch:
    """What turns a trunk into one user's model.

    Attributes:
        trunk: digest of the trunk it belongs to.
        kind: ``full``: new values; ``delta``: int8 codes and a half a row, added; ``lowrank``: two factors whose
            product is added; ``mask``: a bit a number, those without one become zero; ``skip``: whole tensors become
            zero; ``prototype``: int8 codes in steps of clip / 127, added to a prototype.
        body: the arrays of every tensor touched, as `layout` says.
        dtype: of the values of ``full`` and the factors of ``lowrank``.
        prototype: its number; 0 is the trunk.
    """

    trunk: str
    kind: Kind
    body: Mapping[str, Body]
    dtype: str = "float32"
    prototype: int = 0

    @property
    def rank(self) -> int:
        """Of a low-rank edit, the same for all tensors; else 0."""
        return next((arrays[0].shape[1] for arrays in self.body.values()), 0) if self.kind == "lowrank" else 0

    @property
    def nbytes(self) -> int:
        """Of all arrays, without a header."""
        return sum(array.nbytes for arrays in self.body.values() for array in arrays)


def layout(kind: Kind, dtype: str, entry: Adaptive, rank: int) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of the arrays a kind has for one tensor: known before anything is read."""
    rows, columns = entry.matrix
    number = np.dtype(dtype).newbyteorder("<")
    shapes: dict[Kind, list[tuple[np.dtype[Any], tuple[int, ...]]]] = {
        "full": [(number, entry.shape)],
        "delta": [(np.dtype("i1"), entry.shape), (np.dtype("<f2"), (rows,))],
        "lowrank": [(number, (rows, rank)), (number, (rank, columns))],
        "mask": [(np.dtype("u1"), ((rows * columns + 7) // 8,))],
        "skip": [],
        "prototype": [(np.dtype("i1"), entry.shape)],
    }
    return shapes[kind]


def apply(trunk: Tensors, patch: Patch, manifest: Manifest) -> dict[str, Floats]:
    """The tensors of one user's model; nothing that came in is changed.

    Args:
        trunk: whose digest the manifest names (a device checks that once, when it starts).
        patch: of this trunk.
        manifest: what is allowed.

    Raises:
        ArtifactError: another trunk, or anything the manifest does not allow.
    """
    check(patch, manifest)
    out = dict(trunk)
    for entry in manifest.tensors:
        made = trunk[f"prototype.{patch.prototype}.{entry.name}" if patch.prototype else entry.name]
        if entry.name in patch.body:
            with np.errstate(all="ignore"):  # what is no number is refused below
                made = _APPLY[patch.kind](made, patch.body[entry.name], entry, manifest)
        if not float(np.abs(made).max()) <= entry.max_abs:
            raise _refused(f"{entry.name!r} would pass {entry.max_abs:g}")
        out[entry.name] = made
    return out


def check(patch: Patch, manifest: Manifest) -> None:
    """Hold a patch to the manifest before anything is computed.

    Raises:
        ArtifactError: it is of another trunk, too large, or has what is not allowed.
    """
    known = {entry.name: entry for entry in manifest.tensors}
    if patch.trunk != manifest.trunk:
        raise _refused(f"it is of trunk {patch.trunk[:16]}, this one is {manifest.trunk[:16]}")
    if patch.kind not in NEEDS or patch.dtype not in DTYPES:
        raise _refused(f"there is no kind {patch.kind!r} of {patch.dtype!r}")
    if not 0 <= patch.prototype <= (manifest.prototypes if patch.kind == "prototype" else 0):
        raise _refused(f"there is no prototype {patch.prototype}")
    if patch.nbytes > manifest.max_bytes or patch.rank > manifest.max_rank:
        raise _refused(f"{patch.nbytes} bytes of rank {patch.rank} pass what is allowed")
    for name, arrays in patch.body.items():
        if name not in known or NEEDS[patch.kind] not in known[name].actions:
            raise _refused(f"{patch.kind} is not allowed for {name[:100]!r}")
        wanted = layout(patch.kind, patch.dtype, known[name], patch.rank)
        if [(array.dtype, array.shape) for array in arrays] != wanted:
            raise _refused(f"{name!r} has arrays of another shape or type")


def quantised(values: Tensors, trunk: Tensors, manifest: Manifest) -> Patch:
    """New values as int8 deltas to the trunk's, a half a row for scale: the largest change of a row is 127 steps."""
    body: dict[str, Body] = {}
    for entry in manifest.tensors:
        if entry.name in values:
            edit = (values[entry.name] - trunk[entry.name]).reshape(entry.matrix)
            largest = np.abs(edit).max(1)
            scale = (largest / STEPS).astype("<f2")
            scale = np.where(scale.astype(np.float32) * STEPS < largest, np.nextafter(scale, np.float16(np.inf)), scale)
            codes = np.rint(edit / np.maximum(scale.astype(np.float32), 1e-30)[:, None]).clip(-STEPS, STEPS)
            body[entry.name] = (codes.astype("i1").reshape(entry.shape), scale)
    return Patch(manifest.trunk, "delta", body)


def full(values: Tensors, manifest: Manifest, dtype: str = "float32") -> Patch:
    """New values of adaptive tensors, clipped to their bounds."""
    number = np.dtype(dtype).newbyteorder("<")
    body: dict[str, Body] = {
        entry.name: (values[entry.name].clip(-entry.max_abs, entry.max_abs).astype(number),)
        for entry in manifest.tensors if entry.name in values
    }  # fmt: skip
    return Patch(manifest.trunk, "full", body, dtype)


def identity(kind: Kind, trunk: Tensors, manifest: Manifest) -> Patch:
    """The patch of a kind that touches every tensor it may and changes none."""
    body: dict[str, Body] = {}
    for entry in manifest.tensors:
        if NEEDS[kind] in entry.actions and kind != "skip":
            zeros = [np.zeros(shape, dtype) for dtype, shape in layout(kind, "float32", entry, 1)]
            same = {
                "full": (trunk[entry.name].copy(),),
                "mask": tuple(np.full_like(array, 255) for array in zeros if kind == "mask"),
            }
            body[entry.name] = same.get(kind, tuple(zeros))
    return Patch(manifest.trunk, kind, body)


def _added(old: Floats, edit: Floats) -> Floats:
    """Where nothing is added the old bits stay (-0.0 + 0.0 would be 0.0)."""
    found: Floats = np.where(edit == 0, old, old + edit)
    return found


def _full(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    return np.array(arrays[0], np.float32)


def _delta(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    edit = arrays[0].reshape(entry.matrix) * arrays[1].astype(np.float32)[:, None]
    return _added(old, edit.reshape(entry.shape).astype(np.float32))


def _lowrank(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    edit = arrays[0].astype(np.float32) @ arrays[1].astype(np.float32)
    return _added(old, edit.reshape(entry.shape))


def _mask(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    kept = np.unpackbits(arrays[0], count=old.size, bitorder="little").reshape(entry.shape)
    found: Floats = np.where(kept, old, np.float32(0))
    return found


def _skip(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    return np.zeros(entry.shape, np.float32)


def _prototype(old: Floats, arrays: Body, entry: Adaptive, manifest: Manifest) -> Floats:
    step = np.float32(manifest.clip / STEPS)
    return _added(old, np.clip(arrays[0] * step, -manifest.clip, manifest.clip).astype(np.float32))


_APPLY: dict[Kind, Callable[[Floats, Body, Adaptive, Manifest], Floats]] = {
    "full": _full, "delta": _delta, "lowrank": _lowrank, "mask": _mask, "skip": _skip, "prototype": _prototype
}  # fmt: skip


def _refused(why: str) -> ArtifactError:
    return ArtifactError(f"patch refused: {why}", hint="ask for a new one; the model in use stays as it is")
