"""The detector on a device: whether the head in use is probably no longer right, in numpy alone.

`intellectreq` trains it; here is what a device needs of it, without the parts that only training needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tailorbird.errors import ArtifactError
from tailorbird.files import read_json
from tailorbird.tailor.manifest import Floats, Manifest, Tensors, digest_of
from tailorbird.tailor.requests import Situation

CONFIG, TENSORS = "requester.json", "requester.safetensors"
VERSION = 1
LATENT, DRAWS = 16, 10
_SLACK = 2**16  # bytes of a file beside its numbers


@dataclass(frozen=True)
class Asking:
    """A trained detector and its threshold: a `requests.Requester` that a device can hold.

    Attributes:
        tensors: float32, those of `shapes`.
        threshold: a device asks where its score is above it.
        budget: share of events with a request that the threshold was calibrated for.
        published: see `intellectreq`.
    """

    tensors: Tensors
    threshold: float
    budget: float
    published: bool = False

    def __call__(self, seen: Situation) -> Floats:
        """See `requests.Requester`."""
        return self.scores(seen.now, seen.then)

    def asks(self, now: Floats, then: Floats) -> bool:
        """Whether one device asks, by its states now and at the last request, (width,) each."""
        return bool(self.scores(now[None], then[None])[0] > self.threshold)

    def scores(self, now: Floats, then: Floats) -> Floats:
        """High where the head in use is unlikely to be right, (devices,); states (devices, width)."""
        u, old = (self._linear(np.tanh(self._linear(x, "state.0")), "state.2") for x in (now, then))
        inner = np.tanh(self._linear(u, "prior.inner"))
        mean, log = self._linear(inner, "prior.mean"), self._linear(inner, "prior.log").clip(-8, 8)
        drawn = mean[None] + self.tensors["noise"][:, None] * np.exp(0.5 * log)[None]
        known = np.broadcast_to(u, (DRAWS, *u.shape))
        guesses = self._linear(np.concatenate([known, self._linear(drawn, "prior.decode")], 2), "predict")
        spread = guesses.var(2).sum(0) if self.published else guesses.var(0).sum(1)
        states = [old, u] if self.published else [old, u, np.abs(old - u)]
        pair = np.tanh(self._linear(np.concatenate(states, 1), "pair"))
        found: Floats = -self._linear(np.concatenate([pair, spread[:, None]], 1), "score")[:, 0]
        return found

    def to_json(self, manifest: Manifest) -> dict[str, Any]:
        """Plain data; the tensors by their digest, and the manifest it belongs to."""
        own = {"threshold": self.threshold, "budget": self.budget, "published": self.published}
        return {"version": VERSION, "manifest": manifest.digest, "tensors": digest_of(self.tensors)} | own

    def _linear(self, x: Floats, name: str) -> Floats:
        found: Floats = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return found


def shapes(width: int, published: bool = False) -> dict[str, tuple[int, ...]]:
    """Of the tensors a device needs, for states of a width."""
    layers = {
        "state.0": (width, width), "state.2": (width, width), "prior.inner": (width, width),
        "prior.mean": (width, LATENT), "prior.log": (width, LATENT), "prior.decode": (LATENT, width),
        "predict": (2 * width, width), "pair": ((2 if published else 3) * width, 1), "score": (2, 1),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {"noise": (DRAWS, LATENT)}
    for name, (into, out) in layers.items():
        found |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    return found


def read(folder: Path, manifest: Manifest, width: int) -> Asking | None:
    """The detector of a tailored model; None where it has none.

    Args:
        folder: of the model.
        manifest: of its trunk.
        width: of the trunk's states.

    Raises:
        ArtifactError: damaged, or of another model.
    """
    if not (folder / CONFIG).exists():
        return None
    about = read_json(folder / CONFIG)
    try:
        return _checked(about, folder / TENSORS, manifest, width)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as cause:
        raise ArtifactError(
            f"{folder} has no detector that works: {cause}", hint="make it anew: tailorbird tailor train --budget 0.1"
        ) from cause


def _checked(about: Mapping[str, Any], path: Path, manifest: Manifest, width: int) -> Asking:
    threshold, budget, published = (about[key] for key in ("threshold", "budget", "published"))
    if about["version"] != VERSION or not isinstance(published, bool):
        raise ValueError(f"version {about['version']!r}, published {published!r}")
    if about["manifest"] != manifest.digest:
        raise ValueError("it belongs to another model")
    if {type(threshold), type(budget)} - {int, float} or not math.isfinite(threshold) or not 0 < budget < 1:
        raise ValueError(f"a threshold of {threshold} for a budget of {budget}")
    wanted = shapes(width, published)
    if path.stat().st_size > 4 * sum(map(math.prod, wanted.values())) + _SLACK:
        raise ValueError(f"{path.name} is too long")
    tensors = load_file(path)
    if {n: t.shape for n, t in tensors.items()} != wanted or any(t.dtype != np.float32 for t in tensors.values()):
        raise ValueError("tensors of other shapes")
    if digest_of(tensors) != about["tensors"] or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("tensors that are not those of the training")
    return Asking(tensors, float(threshold), float(budget), published)
