"""Patches as bytes: the smallest that verifies, and 10,000 damaged ones."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import ArtifactError
from tailorbird.tailor.head import NAMES, manifest_for, with_head
from tailorbird.tailor.manifest import Manifest, Tensors, digest_of, manifest_of
from tailorbird.tailor.patch import KINDS, Patch, apply, full, identity
from tailorbird.tailor.wire import ENCODINGS, decode, encode, receive

from .conftest import arrays, made, random_head

PAYLOAD = 47  # where it begins with four tensors


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch], kind: str) -> None:
    message = encode(patches[kind], trunk, manifest)
    assert digest_of(receive(message, trunk, manifest)) == digest_of(apply(trunk, patches[kind], manifest))
    same = encode(identity(patches[kind].kind, trunk, manifest), trunk, manifest)
    assert digest_of(receive(same, trunk, manifest)) == manifest.trunk


def test_the_smallest_is_sent(trunk: Tensors, manifest: Manifest) -> None:
    same = {name: trunk[name].copy() for name in NAMES}
    assert ENCODINGS[encode(full(same, manifest), trunk, manifest)[4]] in ("rows", "planes")
    same["head.0.weight"][3] += np.random.default_rng(0).standard_normal(16).astype(np.float32)
    message = encode(full(same, manifest), trunk, manifest)
    assert ENCODINGS[message[4]] == "rows" and len(message) == PAYLOAD + 2 * 2 + 2 * 1 + 16 * 4
    other = full(random_head(3), manifest)
    exact, near = encode(other, trunk, manifest), encode(other, trunk, manifest, tolerance=0.01)
    assert len(near) < len(exact) / 3 and KINDS[near[5]] == "delta"
    with pytest.raises(ArtifactError, match="no encoding"):
        encode(other, trunk, dataclasses.replace(manifest, max_bytes=500))


def test_a_head_of_width_32_takes_less_than_2500_bytes() -> None:
    trunk = with_head(arrays(made("gru4rec", width=32)), 32)
    manifest = manifest_for(trunk)
    head = random_head(width=32)
    assert sum(head[name].size for name in NAMES) == 2112
    message = encode(full(head, manifest), trunk, manifest, tolerance=0.01)
    assert len(message) <= 2500
    found = receive(message, trunk, manifest)
    assert max(float(np.abs(found[name] - head[name]).max()) for name in NAMES) < 0.01


def test_of_another_trunk_or_manifest(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch]) -> None:
    message = encode(patches["delta"], trunk, manifest)
    with pytest.raises(ArtifactError, match="of this manifest"):
        receive(message, trunk, dataclasses.replace(manifest, clip=2.0))
    other = dict(trunk) | {"head.0.bias": trunk["head.0.bias"] + 1}
    with pytest.raises(ArtifactError, match="not what was sent"):
        receive(message, other, manifest)


@pytest.mark.parametrize(("at", "byte"), [(0, 0), (4, 9), (5, 99), (6, 7), (7, 1), (8, 1), (46, 0xF0)])
def test_headers_that_cannot_be(
    trunk: Tensors, manifest: Manifest, patches: dict[str, Patch], at: int, byte: int
) -> None:
    message = bytearray(encode(patches["delta"], trunk, manifest))
    message[at] = byte
    with pytest.raises(ArtifactError, match="refused"):
        receive(bytes(message), trunk, manifest)


def test_a_bomb_is_not_unpacked(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch]) -> None:
    message = encode(patches["full"], trunk, manifest)
    bomb = zlib.compress(bytes(10_000_000), 9)
    head = bytearray(message[:PAYLOAD])
    head[4], head[10:14] = ENCODINGS.index("planes"), struct.pack("<I", len(bomb))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="packed payload"):
        receive(bytes(head) + bomb, trunk, manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_what_unpacks_to_too_much_is_refused_before(trunk: Tensors, manifest: Manifest) -> None:
    """A manifest that names a large tensor still allows small patches only."""
    large = {"table": np.zeros((4_000, 16), np.float32)}
    tight = manifest_of(large, {"table": ["replace"]}, max_abs={"table": 1.0}, max_bytes=4096)
    wide = dataclasses.replace(tight, max_bytes=2**30)
    message = bytearray(encode(full({"table": large["table"]}, wide), large, wide))
    message[14:30] = bytes.fromhex(tight.digest[:32])
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"unpack to more|bytes"):
        receive(bytes(message), large, tight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000


def mutated(message: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled or crossed with those of another message; often with a header that fits again."""
    found = bytearray(message)
    way = random.integers(5)
    place = int(random.integers(len(found)))
    if way == 0:
        for at in random.integers(0, len(found), random.integers(1, 9)):
            found[at] = random.integers(256)
    elif way == 1:
        found = found[:place]
    elif way == 2:
        found[place:place] = random.bytes(int(random.integers(1, 400)))
    elif way == 3:
        found = found[:place] + bytearray(other[place:])
    else:
        found[PAYLOAD:] = random.bytes(len(found) - PAYLOAD)
    if random.random() < 0.7 and len(found) > PAYLOAD:
        found[:4], found[10:14], found[14:30] = message[:4], struct.pack("<I", len(found) - PAYLOAD), message[14:30]
    return bytes(found)


def test_ten_thousand_damaged_messages(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch]) -> None:
    """Refused, or applied within the bounds: also where a liar states the digest of whatever comes out. What a device
    accepts is what one of the senders meant, bit for bit."""
    random = np.random.default_rng(11)
    messages = [encode(patch, trunk, manifest) for patch in patches.values()]
    meant = {digest_of(receive(message, trunk, manifest)) for message in messages}
    outcome: dict[str, int] = {"refused": 0, "applied": 0, "received": 0}
    for turn in range(10_000):
        if turn == 9_000:  # watched from here on: it is slow
            tracemalloc.start()
        message = mutated(messages[turn % len(messages)], messages[int(random.integers(len(messages)))], random)
        try:
            patch, _ = decode(message, trunk, manifest)
            found: dict[str, Any] = apply(trunk, patch, manifest)
        except ArtifactError:
            outcome["refused"] += 1
            continue
        outcome["applied"] += 1
        for entry in manifest.tensors:
            assert found[entry.name].shape == entry.shape and np.abs(found[entry.name]).max() <= entry.max_abs
        try:
            received = receive(message, trunk, manifest)
        except ArtifactError:
            continue
        outcome["received"] += 1
        assert digest_of(received) in meant
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome["refused"] > 5_000 and outcome["applied"] > 300 and outcome["received"] > 30, outcome
    assert peak < 2_000_000


def test_values_at_their_bound_are_sent(trunk: Tensors) -> None:
    """Int8 steps may round past a bound that the values keep: then another form is sent."""
    manifest = manifest_for(trunk, 2.0)
    for seed in range(5):
        values = {name: value * 20 for name, value in random_head(seed).items()}
        message = encode(full(values, manifest), trunk, manifest, tolerance=0.01)
        found = receive(message, trunk, manifest)
        for name, value in values.items():
            np.testing.assert_allclose(found[name], value.clip(-2, 2), atol=0.02)
