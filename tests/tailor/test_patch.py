"""Patches: what they change, what they may not, and that nothing changes nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.tailor.head import NAMES
from tailorbird.tailor.manifest import Adaptive, Manifest, Tensors, digest_of, manifest_of, manifest_of_json
from tailorbird.tailor.patch import KINDS, Patch, apply, full, identity, layout, quantised

from .conftest import random_head


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_changes_nothing_gives_the_trunk(trunk: Tensors, manifest: Manifest, kind: Any) -> None:
    found = apply(trunk, identity(kind, trunk, manifest), manifest)
    assert found.keys() == trunk.keys()
    assert all(found[name].tobytes() == trunk[name].tobytes() for name in trunk)


@pytest.mark.parametrize("kind", KINDS)
def test_apply_is_pure(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch], kind: str) -> None:
    before = digest_of(trunk)
    found = apply(trunk, patches[kind], manifest)
    assert digest_of(trunk) == before == manifest.trunk
    assert digest_of(found) != before and digest_of(found) == digest_of(apply(trunk, patches[kind], manifest))
    assert all(found[name] is trunk[name] for name in trunk if name not in NAMES)


def test_what_kinds_mean(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch]) -> None:
    name = "head.0.weight"
    old, found = trunk[name], {kind: apply(trunk, patch, manifest)[name] for kind, patch in patches.items()}
    np.testing.assert_array_equal(found["full"], patches["full"].body[name][0])
    codes, scale = patches["delta"].body[name]
    np.testing.assert_allclose(found["delta"], old + codes * scale.astype(np.float32)[:, None], rtol=1e-6)
    left, right = patches["lowrank"].body[name]
    np.testing.assert_allclose(found["lowrank"], old + left @ right, rtol=1e-5)
    assert set(np.unique(found["mask"] == old)) == {False, True} and (found["mask"][found["mask"] != old] == 0).all()
    assert not apply(trunk, patches["skip"], manifest)["head.1.weight"].any()
    edit = found["prototype"] - trunk[f"prototype.2.{name}"]
    assert 0 < np.abs(edit).max() <= 0.5 + 1e-6


def test_a_prototype_brings_all_its_tensors(trunk: Tensors, manifest: Manifest) -> None:
    found = apply(trunk, Patch(manifest.trunk, "prototype", {}, prototype=1), manifest)
    assert all((found[name] == trunk[f"prototype.1.{name}"]).all() for name in NAMES)


def test_int8_deltas_are_near(trunk: Tensors, manifest: Manifest) -> None:
    head = random_head(7)
    found = apply(trunk, quantised(head, trunk, manifest), manifest)
    for name in NAMES:
        step = np.abs(head[name] - trunk[name]).max() / 127
        assert np.abs(found[name] - head[name]).max() <= 0.51 * step


def test_norms_are_bounds(trunk: Tensors, manifest: Manifest) -> None:
    head = random_head()
    for wrong in (8.1, np.nan, np.inf, -np.inf):
        head["head.0.bias"][3] = wrong
        with pytest.raises(ArtifactError, match="would pass"):
            apply(trunk, Patch(manifest.trunk, "full", {n: (head[n],) for n in NAMES}), manifest)
    head["head.0.bias"][3] = 9.0
    assert apply(trunk, full(head, manifest), manifest)["head.0.bias"][3] == 8.0
    for scale in (np.float16(np.inf), np.float16(np.nan), np.float16(60_000)):
        body = {"head.0.bias": (np.full(16, 100, np.int8), np.array([scale], "<f2"))}
        with pytest.raises(ArtifactError, match="would pass"):
            apply(trunk, Patch(manifest.trunk, "delta", body), manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"trunk": "0" * 64}, {"kind": "other"}, {"dtype": "float64"}, {"prototype": 1},
        {"body": {"items.weight": (np.zeros((41, 16), np.float32),)}},
        {"body": {"head.0.bias": (np.zeros(17, np.float32),)}},
        {"body": {"head.0.bias": (np.zeros(16, np.float64),)}},
        {"body": {"head.0.bias": ()}},
    ],
)  # fmt: skip
def test_refused(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch], change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="refused"):
        apply(trunk, dataclasses.replace(patches["full"], **change), manifest)


def test_bytes_rank_and_actions_are_bounds(trunk: Tensors, manifest: Manifest, patches: dict[str, Patch]) -> None:
    with pytest.raises(ArtifactError, match="pass what is allowed"):
        apply(trunk, patches["full"], dataclasses.replace(manifest, max_bytes=2000))
    with pytest.raises(ArtifactError, match="rank"):
        apply(trunk, patches["lowrank"], dataclasses.replace(manifest, max_rank=0))
    quiet = tuple(dataclasses.replace(entry, actions=("mask",)) for entry in manifest.tensors)
    with pytest.raises(ArtifactError, match="not allowed"):
        apply(trunk, patches["full"], dataclasses.replace(manifest, tensors=quiet))


def test_manifests(trunk: Tensors, manifest: Manifest) -> None:
    again = manifest_of_json(json.loads(json.dumps(manifest.to_json())))
    assert again == manifest and again.digest == manifest.digest
    for change in ({"version": 2}, {"tensors": [{}]}, {"max_rank": "x"}, {"tensors": []}, {"clip": float("nan")}):
        with pytest.raises(ArtifactError):
            manifest_of_json(manifest.to_json() | change)
    with pytest.raises(ArtifactError):
        Manifest("0", (Adaptive("a", (1 << 40,), ("mask",), 1.0),))
    with pytest.raises(UsageError, match="own bound"):
        manifest_of(trunk, {"items.weight": ["edit"]}, max_abs={"items.weight": 1e-3})
    with pytest.raises(UsageError, match="prototype 3"):
        manifest_of(trunk, {"head.0.bias": ["edit"]}, max_abs={"head.0.bias": 8.0}, prototypes=3)


def test_layout_packs_masks() -> None:
    entry = Adaptive("a", (5, 3), ("mask",), 1.0)
    assert layout("mask", "float32", entry, 0)[0][1] == (2,)
