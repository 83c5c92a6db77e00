"""A compressed trunk in numpy alone: the same numbers as `formats` unpacks, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from tailorbird.errors import ArtifactError
from tailorbird.files import confined, read_json, sha256
from tailorbird.tailor.manifest import Floats
from tailorbird.zoo.names import trained_name

CONFIG, PLAN, MANIFEST = "recommender.json", "plan.json", "manifest.json"
Arrays = Mapping[str, npt.NDArray[Any]]
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8"}
_MAX_NUMBERS = 2**30
_MAX_TERMS = 8


def unpacked(folder: Path, layers: int) -> dict[str, Floats]:
    """All tensors of a compressed trunk by their trained names, float32.

    Args:
        folder: of the artifact.
        layers: of the trunk.

    Raises:
        ArtifactError: missing, damaged, or in a format that only torch can unpack.
    """
    try:
        files = _verified(folder)
        stored = {key: value for name, path in files.items() if name != PLAN for key, value in _read(path).items()}
        found: dict[str, Floats] = {}
        for part in read_json(files[PLAN])["parts"]:
            rows, cols = (int(size) for size in part["shape"])
            own = [key for key in stored if key.startswith(f"{part['name']}.") and key != f"{part['name']}.bias"]
            arrays = {key.removeprefix(f"{part['name']}."): stored.pop(key) for key in own}
            most = min(_MAX_NUMBERS, 8 * sum(array.nbytes for array in arrays.values()))  # a number takes a bit
            if min(rows, cols) < 1 or rows * cols > most:
                raise ValueError(f"{part['name']} has {rows} x {cols} numbers, {most} at most")
            found[f"{part['name']}.weight"] = weight(part["format"], rows, cols, arrays)
        found |= {name: array.astype(np.float32) for name, array in stored.items()}
        return {trained_name(name, layers): value for name, value in found.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError) as cause:
        raise ArtifactError(f"{folder} is no compressed trunk: {cause}", hint="fetch it again") from cause


def _verified(folder: Path) -> dict[str, Path]:
    """The plan and the files of tensors, by name, after every file of the manifest was held to its size and digest."""
    paths, listed = {}, read_json(folder / MANIFEST)["files"]
    if not {PLAN, CONFIG} <= listed.keys():
        raise ValueError(f"the manifest does not list {PLAN} and {CONFIG}")
    for name, (size, digest) in listed.items():
        path = confined(folder, name)
        if path.stat().st_size != size or sha256(path) != digest:
            raise ValueError(f"{name} differs from its digest in the manifest")
        if name == PLAN or name.endswith(".safetensors"):
            paths[name] = path
    return paths


def weight(form: Mapping[str, Any], rows: int, cols: int, arrays: Arrays) -> Floats:
    """A packed weight as float32 (rows, cols); planes, sums of them, and rows in classes of planes."""
    if not isinstance(form, Mapping):
        raise ValueError(f"a format of {form!r}")
    kind = form.get("kind", "planes")
    if kind == "planes":
        return _planes(form, rows, cols, arrays)
    if kind == "sum":
        return _sum(form, rows, cols, arrays)
    if kind != "rows":
        raise ValueError(f"there is no numpy for the format {kind!r}")
    classes, out = form["classes"], np.empty((rows, cols), np.float32)
    bits = (len(classes) - 1).bit_length()
    of = _codes(arrays["classes"].reshape(1, -1), bits, rows)[0]
    if [int(one["rows"]) for one in classes] != np.bincount(of, minlength=len(classes)).tolist():
        raise ValueError("classes of other rows")
    for number, one in enumerate(classes):
        out[of == number] = _planes(one, int(one["rows"]), cols, _numbered(arrays, number))
    return out


def _numbered(arrays: Arrays, number: int) -> Arrays:
    """Those of one class or term."""
    return {name.removesuffix(f"_{number}"): a for name, a in arrays.items() if name.endswith(f"_{number}")}


def _sum(form: Mapping[str, Any], rows: int, cols: int, arrays: Arrays) -> Floats:
    """See `formats.sums`: planes that cover some groups each."""
    terms, size = form["terms"], form["terms"][0]["group_size"]
    if type(size) is not int or size < 1 or cols % size or len(terms) > _MAX_TERMS:
        raise ValueError(f"{len(terms)} terms, groups of {size!r} in rows of {cols}")
    out = np.zeros((rows, cols // size, size), np.float32)
    for number, term in enumerate(terms):
        over = term.get("over", "1" * out.shape[1])
        covered = [group for group, digit in enumerate(over) if digit == "1"]
        if term["group_size"] != size or len(over) != out.shape[1] or not covered:
            raise ValueError(f"a term over {over!r}, groups of {term['group_size']!r}")
        values = _planes(term, rows, len(covered) * size, _numbered(arrays, number))
        out[:, covered] += values.reshape(rows, len(covered), size)
    return _ordered(out.reshape(rows, cols), form, arrays)


def _planes(form: Mapping[str, Any], rows: int, cols: int, arrays: Arrays) -> Floats:
    """See `formats.bitplanes` for the arrays."""
    size, said = form["group_size"], form["bits"]
    if type(size) is not int or size < 1 or cols % size:
        raise ValueError(f"groups of {size!r} in rows of {cols}")
    groups = cols // size
    bits = [said] * groups if isinstance(said, int) else [int(digit) for digit in said]
    if len(bits) != groups or not set(bits) <= set(range(1, 9)):
        raise ValueError(f"bits {said!r} for {groups} groups")
    runs = [(b, [g for g in range(groups) if bits[g] == b]) for b in sorted(set(bits))]
    codes, start = np.empty((rows, groups, size), np.uint8), 0
    for b, mine in runs:
        width = b * -(-len(mine) * size // 8)
        some = _codes(arrays["planes"][:, start : start + width], b, len(mine) * size)
        codes[:, mine], start = some.reshape(rows, len(mine), size), start + width
    scale, offset = _grid(form, rows, bits, runs, arrays)
    found = codes.astype(np.float32) * scale[:, :, None] + offset[:, :, None]
    return _ordered(found.reshape(rows, cols), form, arrays)


def _ordered(found: Floats, form: Mapping[str, Any], arrays: Arrays) -> Floats:
    """Columns where they belong."""
    if not form.get("column_order"):
        return found
    out = np.empty_like(found)
    out[:, arrays["column_order"]] = found
    return out


def _grid(
    form: Mapping[str, Any], rows: int, bits: list[int], runs: list[tuple[int, list[int]]], arrays: Arrays
) -> tuple[Floats, Floats]:
    scale: Floats = arrays["scales"].astype(np.float32)
    if "row_scales" in arrays:
        scale = scale * arrays["row_scales"].astype(np.float32)[:, None]
    if form["offset"] == "float":
        offset: Floats = arrays["offsets"].astype(np.float32)
        if "row_offsets" in arrays:
            offset = offset * arrays["row_offsets"].astype(np.float32)[:, None]
        return scale, offset
    zeros = np.tile(np.array([0.5 if b == 1 else 2.0 ** (b - 1) for b in bits], np.float32), (rows, 1))
    if form["offset"] == "integer" and max(bits) > 1:
        flat = np.unpackbits(arrays["zeros"], axis=1, bitorder="little")
        for b, mine in runs:
            if b > 1:
                some, flat = flat[:, : b * len(mine)].reshape(rows, len(mine), b), flat[:, b * len(mine) :]
                zeros[:, mine] = (some << np.arange(b, dtype=np.uint8)).sum(2)
    return scale, -scale * zeros


def _codes(planes: npt.NDArray[Any], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Codes (rows, count) of bit planes (rows, bits * ceil(count / 8))."""
    parted = planes.reshape(len(planes), bits, -(-count // 8))
    flat = np.unpackbits(parted, axis=2, bitorder="little")[:, :, :count]
    found: npt.NDArray[np.uint8] = (flat << np.arange(bits, dtype=np.uint8)[:, None]).sum(1, dtype=np.uint8)
    return found


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    found = {}
    for name, info in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        array = np.frombuffer(info["data"], _TYPES[info["dtype"]]).reshape(info["shape"])
        if info["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        found[name] = array
    return found
