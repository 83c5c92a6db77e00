"""A patch as bytes: as few as carry it, and nothing in them is trusted.

    4s magic | u8 encoding | u8 kind | u8 dtype | u8 rank | u16 prototype | u32 length of the payload
    16s digest of the manifest (which names the trunk) | 16s digest of the adaptive tensors after the patch
    one bit a tensor of the manifest, then the payload

All sizes but the payload's follow from the manifest, so a message can't announce any. Compression is zlib, which every
Python and every browser has: on a head of some kilobytes other compressors gain nothing that would pay for a library.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tailorbird.errors import ArtifactError
from tailorbird.tailor.manifest import MAX_BYTES, Adaptive, Floats, Manifest, Tensors, digest_of
from tailorbird.tailor.patch import DTYPES, KINDS, Array, Body, Patch, apply, layout, quantised

Encoding = Literal["raw", "rows", "planes"]
ENCODINGS: tuple[Encoding, ...] = ("raw", "rows", "planes")
MAGIC = b"TBP1"
_HEADER = struct.Struct("<4sBBBBHI16s16s")


def encode(patch: Patch, trunk: Tensors, manifest: Manifest, *, tolerance: float = 0.0) -> bytes:
    """The smallest message that gives the patch's model: raw arrays, changed rows only, byte planes of the
    difference, and with a tolerance int8 deltas. Each is read back and applied before it may be chosen.

    Args:
        patch: what is to be sent.
        trunk: what the device has.
        manifest: of the trunk.
        tolerance: how far a number may be from the patch's, as a share of the largest of its tensor.

    Raises:
        ArtifactError: the manifest does not allow the patch, or no encoding keeps its limit of bytes.
    """
    wanted = apply(trunk, patch, replace(manifest, max_bytes=MAX_BYTES))  # what is sent counts, not what it was
    messages = []
    for encoding, form in _forms(patch, wanted, trunk, manifest):
        if form.nbytes <= manifest.max_bytes and (made := _tried(form, trunk, manifest)) is not None:
            messages.append(_message(encoding, form, trunk, manifest, _result(made, manifest)))
    for message in sorted(messages, key=len):
        if len(message) <= manifest.max_bytes and _near(receive(message, trunk, manifest), wanted, manifest, tolerance):
            return message
    raise ArtifactError(
        f"no encoding of the patch keeps {manifest.max_bytes} bytes",
        hint="a smaller patch, a larger tolerance, or a manifest with a larger max_bytes",
    )


def receive(message: bytes, trunk: Tensors, manifest: Manifest) -> dict[str, Floats]:
    """The model a message makes of a trunk.

    Raises:
        ArtifactError: damaged, too large, of another manifest, beyond its bounds, or with another result than was sent.
    """
    patch, result = decode(message, trunk, manifest)
    found = apply(trunk, patch, manifest)
    if _result(found, manifest) != result:
        raise _bad("the result is not what was sent")
    return found


def decode(message: bytes, trunk: Tensors, manifest: Manifest) -> tuple[Patch, bytes]:
    """The patch in a message, and the digest its result must have; bounded in time and memory by the manifest.

    Raises:
        ArtifactError: damaged, too large or of another manifest.
    """
    places = (len(manifest.tensors) + 7) // 8
    start = _HEADER.size + places
    if not start <= len(message) <= manifest.max_bytes:
        raise _bad(f"{len(message)} bytes")
    magic, encoding, kind, dtype, rank, prototype, length, of, result = _HEADER.unpack_from(message)
    if magic != MAGIC or of.hex() != manifest.digest[:32]:
        raise _bad("no patch of this manifest")
    if encoding >= len(ENCODINGS) or kind >= len(KINDS) or dtype >= len(DTYPES) or length != len(message) - start:
        raise _bad("a header that can't be")
    if rank > manifest.max_rank or (KINDS[kind] == "lowrank") != (rank > 0):
        raise _bad(f"rank {rank}")
    flags = np.unpackbits(np.frombuffer(message, np.uint8, places, _HEADER.size), bitorder="little")
    if flags[len(manifest.tensors) :].any():
        raise _bad("more tensors than there are")
    chosen = [entry for entry, flag in zip(manifest.tensors, flags, strict=False) if flag]
    empty = Patch(manifest.trunk, KINDS[kind], {}, DTYPES[dtype], prototype)
    if sum(_size(empty, entry, rank) for entry in chosen) > manifest.max_bytes:
        raise _bad("it would unpack to more than is allowed")
    body = _read(ENCODINGS[encoding], message[start:], empty, rank, chosen, trunk)
    return replace(empty, body=body), result


def _tried(form: Patch, trunk: Tensors, manifest: Manifest) -> dict[str, Floats] | None:
    """What a form gives; nothing where it is refused: rounded steps may pass a bound that the values keep."""
    try:
        return apply(trunk, form, manifest)
    except ArtifactError:
        return None


def _forms(patch: Patch, wanted: Tensors, trunk: Tensors, manifest: Manifest) -> Iterator[tuple[Encoding, Patch]]:
    forms = [patch]
    if patch.kind == "full" and all("edit" in entry.actions for entry in manifest.tensors):
        forms.append(quantised({name: wanted[name] for name in patch.body}, trunk, manifest))
    for form in forms:
        yield "raw", form
        yield "planes", form
        if form.kind == "full":
            yield "rows", form


def _near(found: Tensors, wanted: Tensors, manifest: Manifest, tolerance: float) -> bool:
    pairs = [(found[entry.name], wanted[entry.name]) for entry in manifest.tensors]
    if tolerance == 0:
        return all(a.tobytes() == b.tobytes() for a, b in pairs)
    return all(bool((np.abs(a - b) <= tolerance * np.abs(b).max() + 1e-7).all()) for a, b in pairs)


def _result(tensors: Tensors, manifest: Manifest) -> bytes:
    return bytes.fromhex(digest_of({entry.name: tensors[entry.name] for entry in manifest.tensors})[:32])


def _message(encoding: Encoding, patch: Patch, trunk: Tensors, manifest: Manifest, result: bytes) -> bytes:
    flags = np.packbits([entry.name in patch.body for entry in manifest.tensors], bitorder="little").tobytes()
    payload = _written(encoding, patch, trunk, [e for e in manifest.tensors if e.name in patch.body])
    codes = ENCODINGS.index(encoding), KINDS.index(patch.kind), DTYPES.index(patch.dtype)
    of = bytes.fromhex(manifest.digest[:32])
    header = _HEADER.pack(MAGIC, *codes, patch.rank, patch.prototype, len(payload), of, result)
    return header + flags + payload


def _written(encoding: Encoding, patch: Patch, trunk: Tensors, entries: list[Adaptive]) -> bytes:
    if encoding == "rows":
        return b"".join(_changed(patch.body[entry.name][0], entry, trunk) for entry in entries)
    arrays = [(array, entry) for entry in entries for array in patch.body[entry.name]]
    if encoding == "raw":
        return b"".join(array.tobytes() for array, _ in arrays)
    crossed = (_crossed(array, entry, patch, trunk) for array, entry in arrays)
    return zlib.compress(b"".join(np.ascontiguousarray(_bytes(array).T).tobytes() for array in crossed), 9)


def _read(
    encoding: Encoding, payload: bytes, empty: Patch, rank: int, entries: list[Adaptive], trunk: Tensors
) -> dict[str, Body]:
    if encoding == "rows":
        return _rows(payload, empty, entries, trunk)
    shapes = [(entry, layout(empty.kind, empty.dtype, entry, rank)) for entry in entries]
    size = sum(_size(empty, entry, rank) for entry in entries)
    if encoding == "planes":
        payload = _unpacked(payload, size)
    if len(payload) != size:
        raise _bad(f"{len(payload)} bytes where {size} belong")
    body, at = {}, 0
    for entry, arrays in shapes:
        found = []
        for dtype, shape in arrays:
            piece = payload[at : at + math.prod(shape) * dtype.itemsize]
            at += len(piece)
            if encoding == "planes":
                piece = np.frombuffer(piece, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
            array = np.frombuffer(piece, dtype).reshape(shape)
            found.append(_crossed(array, entry, empty, trunk) if encoding == "planes" else array)
        body[entry.name] = tuple(found)
    return body


def _size(patch: Patch, entry: Adaptive, rank: int) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout(patch.kind, patch.dtype, entry, rank))


def _crossed(array: Array, entry: Adaptive, patch: Patch, trunk: Tensors) -> Array:
    """New values XOR the trunk's, its own inverse; other arrays have nothing to be compared with."""
    if patch.kind != "full":
        return array
    old = trunk[entry.name].astype(array.dtype)
    found: Array = (_bytes(array) ^ _bytes(old)).reshape(-1).view(array.dtype).reshape(array.shape)
    return found


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)


def _changed(array: Array, entry: Adaptive, trunk: Tensors) -> bytes:
    rows = array.reshape(entry.matrix)
    old = trunk[entry.name].astype(array.dtype).reshape(entry.matrix)
    moved = (rows.view(f"u{array.dtype.itemsize}") != old.view(f"u{array.dtype.itemsize}")).any(1)
    found: bytes = np.packbits(moved, bitorder="little").tobytes() + rows[moved].tobytes()
    return found


def _rows(payload: bytes, empty: Patch, entries: list[Adaptive], trunk: Tensors) -> dict[str, Body]:
    if empty.kind != "full":
        raise _bad("rows of no values")
    body: dict[str, Body] = {}
    dtype: np.dtype[Any] = np.dtype(empty.dtype).newbyteorder("<")
    at = 0
    for entry in entries:
        rows, columns = entry.matrix
        bits = (rows + 7) // 8
        if len(payload) < at + bits:
            raise _bad("it ends inside the rows")
        flags = np.unpackbits(np.frombuffer(payload, np.uint8, bits, at), bitorder="little")
        count = int(flags.sum())
        if flags[rows:].any() or len(payload) < at + bits + count * columns * dtype.itemsize:
            raise _bad("it ends inside the rows")
        values = trunk[entry.name].astype(dtype).reshape(entry.matrix).copy()
        values[flags[:rows].astype(bool)] = np.frombuffer(payload, dtype, count * columns, at + bits).reshape(
            count, columns
        )
        body[entry.name] = (values.reshape(entry.shape),)
        at += bits + count * columns * dtype.itemsize
    if at != len(payload):
        raise _bad("it goes on behind the rows")
    return body


def _unpacked(payload: bytes, size: int) -> bytes:
    """At most `size` bytes, whatever the payload would grow to."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(payload, size + 1)
    except zlib.error as cause:
        raise _bad(f"can't be unpacked: {cause}") from cause
    if not stream.eof or stream.unused_data:
        raise _bad("more or less than one packed payload")
    return found


def _bad(why: str) -> ArtifactError:
    return ArtifactError(f"message refused: {why}", hint="ask for a new one; the model in use stays as it is")
