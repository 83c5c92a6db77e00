"""What runs on a device: a trunk and the head of the last patch, in numpy alone.

The same states and scores as the torch models of the zoo to the last digits of float32. Nothing here, nor in what it
imports, needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tailorbird.errors import ArtifactError, UsageError
from tailorbird.files import read_json
from tailorbird.tailor import ask
from tailorbird.tailor.head import manifest_for, mapped, unrolled, with_head
from tailorbird.tailor.manifest import Floats, Manifest, Tensors, digest_of, manifest_of_json, model_digest
from tailorbird.tailor.sizes import check_personal, check_sizes
from tailorbird.tailor.unpack import CONFIG, MANIFEST, PLAN, unpacked
from tailorbird.tailor.wire import receive
from tailorbird.tasks.sequences.dataset import check_items

TENSORS = "model.safetensors"
PERSONAL = "personal.safetensors"  # adaptive tensors and prototypes, where they are not a head of zeros
COMPRESSED = "trunk"  # folder of a tailored model with the packed weights, where the trunk is compressed


class Device:
    """A trunk that answers, and takes patches.

    Args:
        name: of the recommender, ``sasrec``, ``gru4rec`` or ``din``.
        shape: its sizes, as `zoo.recommenders.model.Shape`.
        trunk: its tensors, head of zeros included.
        manifest: of this trunk.
        asking: the detector that says when to ask for a patch.

    Attributes:
        snapshot: the state at the last request, (width,); None before the first.

    Raises:
        ArtifactError: another kind of recommender, sizes that are not those of the tensors, or not the trunk of the
            manifest.
    """

    def __init__(
        self,
        name: str,
        shape: Mapping[str, Any],
        trunk: Tensors,
        manifest: Manifest,
        asking: ask.Asking | None = None,
    ) -> None:
        check_sizes(name, shape, trunk)
        manifest.check(trunk)
        if digest_of(trunk) != manifest.trunk or manifest.model not in ("", model_digest(name, shape)):
            raise ArtifactError("the trunk is not the manifest's", hint="fetch both again")
        self.name, self.shape, self.manifest = name, shape, manifest
        self.trunk = self.tensors = dict(trunk)
        self.asking = asking
        self.snapshot: Floats | None = None

    def take(self, message: bytes, history: list[int] | None = None) -> None:
        """Put a patch to use. If it is refused, the model stays as it is.

        Args:
            message: the patch.
            history: what it was asked for with, so that `asks` can tell how far things have moved since.

        Raises:
            ArtifactError: see `wire.receive`.
            UsageError: see `state`.
        """
        snapshot = None if history is None else self.summary(history)
        self.tensors = receive(message, self.trunk, self.manifest)
        self.snapshot = snapshot

    def asks(self, history: list[int]) -> bool:
        """Whether to ask for a patch before the next answer: the head in use is unlikely to be right, or there is none
        whose history is known.

        Raises:
            UsageError: the model came without a detector; see `state`.
        """
        if self.asking is None:
            raise UsageError("this model has no detector", hint="make one: tailorbird tailor train TRUNK --budget 0.1")
        now = self.summary(history)
        return self.snapshot is None or self.asking.asks(now, self.snapshot)

    def summary(self, history: list[int]) -> Floats:
        """The state that requests go by, (width,): of DIN the one towards the latest event.

        Raises:
            UsageError: see `state`.
        """
        state = self.state(history)
        return state if state.ndim == 1 else state[history[-1] if history else 0]

    def state(self, history: list[int]) -> Floats:
        """What the trunk makes of a history of items, oldest first; (width,), of DIN (items + 1, width).

        Raises:
            UsageError: an item that is none of the trunk's.
        """
        check_items(history, int(self.shape["items"]))
        ids = np.array(history[-int(self.shape["length"]) :] or [0], np.int64)
        return _STATES[self.name](ids, self.tensors, self.shape)

    def scores(self, history: list[int]) -> Floats:
        """A score for every item, (items + 1,), the pad's first."""
        table = self.tensors["items.weight"][: int(self.shape["items"]) + 1]
        turned = mapped(self.state(history), self.tensors)
        found: Floats = table @ turned if turned.ndim == 1 else (table * turned).sum(1)
        return found


def load(folder: Path) -> Device:
    """The device's half of a folder of `tailorbird tailor train`; one of `tailorbird train` has the manifest of a trunk
    that nobody has tailored yet.

    Raises:
        ArtifactError: missing, damaged, or not what the manifest says.
    """
    about = read_json(folder / CONFIG, limit=2**28)
    tailored = (folder / MANIFEST).exists() and not (folder / PLAN).exists()  # else it is an artifact's own manifest
    manifest = manifest_of_json(read_json(folder / MANIFEST)) if tailored else None
    try:
        name, shape = str(about["name"]), dict(about["shape"])
        trunk = _trunk(folder, shape["layers"])
        check_sizes(name, shape, trunk)  # before a head of their width is made
        trunk = with_head(trunk, shape["width"])
        if (folder / PERSONAL).exists():
            own = load_file(folder / PERSONAL)
            check_personal(shape["width"], own)
            trunk |= unrolled(own)
        promise = manifest or manifest_for(trunk, model=model_digest(name, shape))
        asking = ask.read(folder, promise, shape["width"]) if tailored else None
        return Device(name, shape, trunk, promise, asking)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as cause:
        raise ArtifactError(
            f"{folder} is no tailored model: {cause}", hint="make it: tailorbird tailor train"
        ) from cause


def _trunk(folder: Path, layers: int) -> Tensors:
    """The trunk's tensors, packed ones unpacked."""
    for place in (folder, folder / COMPRESSED):
        if (place / PLAN).is_file():
            return unpacked(place, layers)
    return load_file(folder / TENSORS)


def read_patch(path: Path, manifest: Manifest) -> bytes:
    """A message from a file; no more is read than the manifest allows.

    Raises:
        ArtifactError: it can't be read, or is longer.
    """
    try:
        with path.open("rb") as handle:
            message = handle.read(manifest.max_bytes + 1)
    except OSError as cause:
        raise ArtifactError(f"{path} can't be read: {cause}", hint="make it: tailorbird tailor make") from cause
    if len(message) > manifest.max_bytes:
        raise ArtifactError(f"{path} is longer than {manifest.max_bytes} bytes", hint="it is no patch of this model")
    return message


def _sasrec(ids: Any, tensors: Tensors, shape: Mapping[str, Any]) -> Floats:
    length, width, heads = len(ids), int(shape["width"]), int(shape["heads"])
    places = np.arange(length - 1, -1, -1)
    x = tensors["items.weight"][ids] * np.float32(np.sqrt(width)) + tensors["positions.weight"][places]
    causal = np.tril(np.ones((length, length), bool))
    for layer in range(int(shape["layers"])):
        part = {key.removeprefix(f"blocks.{layer}."): value for key, value in tensors.items()}
        qkv = _linear(_norm(x, part, "before"), part, "qkv").reshape(length, 3, heads, -1).transpose(1, 2, 0, 3)
        weights = qkv[0] @ qkv[1].transpose(0, 2, 1) / np.float32(np.sqrt(width // heads))
        weights = np.where(causal, weights, -np.inf)
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        looked = (weights / weights.sum(-1, keepdims=True)) @ qkv[2]
        x = x + _linear(looked.transpose(1, 0, 2).reshape(length, width), part, "out")
        x = x + _linear(np.maximum(_linear(_norm(x, part, "between"), part, "up"), 0), part, "down")
    found: Floats = _norm(x[-1], tensors, "norm").astype(np.float32)
    return found


def _gru4rec(ids: Any, tensors: Tensors, shape: Mapping[str, Any]) -> Floats:
    x = tensors["items.weight"][ids]
    for layer in range(int(shape["layers"])):
        into = x @ tensors[f"gru.weight_ih_l{layer}"].T + tensors[f"gru.bias_ih_l{layer}"]
        weight, bias = tensors[f"gru.weight_hh_l{layer}"], tensors[f"gru.bias_hh_l{layer}"]
        state, states = np.zeros(weight.shape[1], np.float32), []
        for row in into:
            (r, z, new), (kept_r, kept_z, kept) = np.split(row, 3), np.split(weight @ state + bias, 3)
            update = _sigmoid(z + kept_z)
            state = (1 - update) * np.tanh(new + _sigmoid(r + kept_r) * kept) + update * state
            states.append(state)
        x = np.stack(states)
    return _linear(x[-1], tensors, "out")


def _din(ids: Any, tensors: Tensors, shape: Mapping[str, Any]) -> Floats:
    table, root = tensors["items.weight"], np.float32(np.sqrt(int(shape["width"])))
    events = table[ids] * root + tensors["positions.weight"][np.arange(len(ids) - 1, -1, -1)]
    logits = (table @ tensors["query.weight"].T) @ (events @ tensors["key.weight"].T).T / root
    logits = np.concatenate([np.where(ids == 0, -np.inf, logits), np.zeros((len(table), 1), np.float32)], 1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    pooled = weights[:, :-1] @ (events @ tensors["value.weight"].T)
    inner = np.maximum(_linear(pooled, tensors, "read") + _linear(table, tensors, "target"), 0)
    found: Floats = pooled + _linear(inner, tensors, "down")
    return found


_STATES = {"sasrec": _sasrec, "gru4rec": _gru4rec, "din": _din}


def _linear(x: Floats, tensors: Tensors, name: str) -> Floats:
    found: Floats = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return found


def _norm(x: Floats, tensors: Tensors, name: str) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    found: Floats = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5))
    return found * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return found
