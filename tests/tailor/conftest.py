"""A small random trunk with a head, its manifest, and patches of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tailorbird.tailor.head import NAMES, manifest_for, with_head
from tailorbird.tailor.manifest import Floats, Manifest, Tensors, manifest_of
from tailorbird.tailor.patch import KINDS, Patch, identity, quantised
from tailorbird.zoo.recommenders import find
from tailorbird.zoo.recommenders.model import Recommender

WIDTH = 16


def made(name: str, items: int = 40, width: int = WIDTH, **sizes: int) -> Recommender:
    torch.manual_seed(0)
    kind = find(name)
    return kind(kind.sizes(items, **({"length": 8, "width": width, "layers": 2, "heads": 2} | sizes))).eval()


def arrays(model: Recommender) -> dict[str, Floats]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def random_head(seed: int = 1, width: int = WIDTH, size: float = 0.3) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    zeros = with_head({}, width)
    return {name: (size * random.standard_normal(zeros[name].shape)).astype(np.float32) for name in NAMES}


@pytest.fixture(scope="session")
def trunk() -> dict[str, Floats]:
    """With a head of its own (not of zeros) and two prototypes, so that every kind changes something."""
    tensors = with_head(arrays(made("sasrec")), WIDTH) | random_head()
    for number in (1, 2):
        tensors |= {f"prototype.{number}.{name}": value for name, value in random_head(number + 1).items()}
    tensors["head.0.weight"][0, 0] = -0.0
    return tensors


@pytest.fixture(scope="session")
def manifest(trunk: Tensors) -> Manifest:
    plain = manifest_for(trunk, 8.0)
    actions = {entry.name: entry.actions for entry in plain.tensors}
    bounds = dict.fromkeys(NAMES, 8.0)
    return manifest_of(trunk, actions, max_abs=bounds, max_bytes=16_384, prototypes=2, clip=0.5)


@pytest.fixture(scope="session")
def patches(trunk: Tensors, manifest: Manifest) -> dict[str, Patch]:
    """One of every kind that changes something."""
    random, found = np.random.default_rng(5), {}
    for kind in KINDS:
        plain = identity(kind, trunk, manifest)
        body = {
            name: tuple(
                random.integers(0 if a.dtype == np.uint8 else -90, 100, a.shape).astype(a.dtype)
                if a.dtype.kind in "iu"
                else (0.2 * random.standard_normal(a.shape)).astype(a.dtype)
                for a in body
            )
            for name, body in plain.body.items()
        }
        if kind == "skip":
            body = {"head.1.weight": ()}
        found[kind] = Patch(manifest.trunk, kind, body, plain.dtype, 2 if kind == "prototype" else 0)
    found["delta"] = quantised(random_head(9), trunk, manifest)
    return found
