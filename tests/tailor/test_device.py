"""The device's runtime gives the torch models' scores, and never imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.errors import ArtifactError, ModelError
from tailorbird.files import write_json
from tailorbird.tailor.device import TENSORS, Device, load
from tailorbird.tailor.head import NAMES, manifest_for, mapped, with_head
from tailorbird.tailor.manifest import model_digest
from tailorbird.tailor.patch import full, identity
from tailorbird.tailor.unpack import CONFIG, MANIFEST
from tailorbird.tailor.wire import encode
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.model import Recommender

from .conftest import WIDTH, arrays, made, random_head

HISTORIES = [[], [7], [3, 1, 4, 1, 5], list(range(1, 30))]


def device_of(model: Recommender) -> Device:
    trunk = with_head(arrays(model), WIDTH)
    return Device(model.name, model.shape.to_json(), trunk, manifest_for(trunk))


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "din"])
def test_same_scores_as_torch(name: str) -> None:
    model = made(name)
    device = device_of(model)
    head = random_head()
    message = encode(full(head, device.manifest), device.trunk, device.manifest)
    for history in HISTORIES:
        ids = model.window([np.array(history, np.int64)])
        with torch.no_grad():
            state = model.last(ids)
            np.testing.assert_allclose(device.state(history), state[0].numpy(), atol=2e-6)
            device.tensors = device.trunk
            np.testing.assert_allclose(device.scores(history), model.scores(state)[0].numpy(), atol=1e-5)
            w0, b0, w1, b1 = (torch.from_numpy(head[key]) for key in NAMES)
            wanted = model.scores(state + torch.tanh(state @ w0.T + b0) @ w1.T + b1)
        device.take(message)
        np.testing.assert_allclose(device.scores(history), wanted[0].numpy(), atol=1e-5)


def test_a_head_of_zeros_is_the_trunk() -> None:
    device = device_of(made("sasrec"))
    before = device.scores([1, 2, 3])
    state = device.state([1, 2, 3])
    np.testing.assert_array_equal(before, device.tensors["items.weight"] @ state)
    device.take(encode(identity("delta", device.trunk, device.manifest), device.trunk, device.manifest))
    np.testing.assert_array_equal(device.scores([1, 2, 3]), before)


def test_heads_of_many_devices_at_once() -> None:
    states = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    heads = [random_head(seed) for seed in range(3)]
    many = mapped(states, {name: np.stack([head[name] for head in heads]) for name in NAMES})
    for row, state, head in zip(many, states, heads, strict=True):
        np.testing.assert_allclose(row, mapped(state, head), atol=1e-6)


def test_a_refused_patch_leaves_the_model_as_it_is() -> None:
    device = device_of(made("gru4rec"))
    message = encode(full(random_head(), device.manifest), device.trunk, device.manifest)
    device.take(message)
    before = device.scores([5])
    with pytest.raises(ArtifactError):
        device.take(message[:-1])
    np.testing.assert_array_equal(device.scores([5]), before)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "din"])
def test_a_process_without_torch(tmp_path: Path, name: str) -> None:
    """It holds the trunk's folder and a payload, and ranks as the process that made them."""
    model = made(name)
    folder.save(tmp_path / "m", model, (), {})
    device = device_of(model)
    write_json(tmp_path / "m" / MANIFEST, device.manifest.to_json())
    message = encode(full(random_head(), device.manifest), device.trunk, device.manifest, tolerance=0.01)
    (tmp_path / "patch").write_bytes(message)
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tailorbird.tailor.device import load\n"
        "import tailorbird.tailor.requests\n"
        f"device = load(Path({str(tmp_path / 'm')!r})); device.take(Path({str(tmp_path / 'patch')!r}).read_bytes())\n"
        f"np.save({str(tmp_path / 'scores.npy')!r}, np.stack([device.scores(h) for h in {HISTORIES!r}]))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    device.take(message)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), np.stack([device.scores(h) for h in HISTORIES]))


def edited(path: Path, **values: Any) -> None:
    """The file with other values; of `shape`, those given."""
    words = json.loads(path.read_text())
    for key, value in values.items():
        words[key] = words[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(words))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("sasrec", {"width": 2**20}), ("gru4rec", {"width": 2**20}), ("din", {"width": 2**20}),
        ("sasrec", {"items": 39}), ("gru4rec", {"items": 2**24}), ("din", {"items": 41}),
        ("sasrec", {"length": 2**24}), ("din", {"length": 7}),
        ("sasrec", {"layers": 3}), ("gru4rec", {"layers": 2**24}), ("gru4rec", {"layers": 3}),
        ("sasrec", {"heads": 0}), ("sasrec", {"heads": 3}), ("sasrec", {"width": -16}), ("gru4rec", {"length": None}),
    ],
)  # fmt: skip
def test_sizes_are_held_to_the_files(tmp_path: Path, name: str, shape: dict[str, Any]) -> None:
    """Before anything of these sizes is made, on the device and in the cloud."""
    folder.save(tmp_path / "m", made(name), (), {})
    edited(tmp_path / "m" / CONFIG, shape=shape)
    with pytest.raises(ArtifactError):
        load(tmp_path / "m")
    with pytest.raises(ModelError):
        folder.read(tmp_path / "m")


@pytest.mark.parametrize(
    "values",
    [{"shape": {"heads": 4}}, {"shape": {"length": 4}}, {"name": "gru4rec"}, {"shape": {"dropout": 0.0}}],
)
def test_sizes_stand_in_the_manifest(tmp_path: Path, values: dict[str, Any]) -> None:
    """Other heads fit the same tensors, and would give other scores without a word."""
    model = made("sasrec")
    folder.save(tmp_path / "m", model, (), {})
    device = load(tmp_path / "m")
    write_json(tmp_path / "m" / MANIFEST, device.manifest.to_json())
    message = encode(full(random_head(), device.manifest), device.trunk, device.manifest)
    load(tmp_path / "m").take(message)
    edited(tmp_path / "m" / CONFIG, **values)
    with pytest.raises(ArtifactError):
        load(tmp_path / "m")
    (tmp_path / "m" / MANIFEST).unlink()  # a trunk that nobody has tailored: its patches tell
    if set(values.get("shape", {})) == {"heads"}:
        with pytest.raises(ArtifactError, match="no patch of this manifest"):
            load(tmp_path / "m").take(message)


def test_manifests_of_before_are_read(tmp_path: Path) -> None:
    """They do not name the sizes; the digest they have, and so their patches, stay."""
    model = made("sasrec")
    folder.save(tmp_path / "m", model, (), {})
    device = device_of(model)
    assert not device.manifest.model and "model" not in device.manifest.to_json()
    write_json(tmp_path / "m" / MANIFEST, device.manifest.to_json())
    load(tmp_path / "m").take(encode(full(random_head(), device.manifest), device.trunk, device.manifest))


def test_entries_and_prototypes_are_the_trunks() -> None:
    model = made("sasrec")
    good = device_of(model)
    entry = good.manifest.tensors[0]
    for odd in (
        replace(good.manifest, tensors=(replace(entry, name="nowhere"),)),
        replace(good.manifest, tensors=(replace(entry, shape=(WIDTH, WIDTH + 1)),)),
        replace(good.manifest, prototypes=1),
    ):
        with pytest.raises(ArtifactError, match="is not in"):
            Device(model.name, model.shape.to_json(), good.trunk, odd)


def test_damaged_folders(tmp_path: Path) -> None:
    model = made("sasrec")
    with pytest.raises(ArtifactError, match="missing"):
        load(tmp_path / "m")
    folder.save(tmp_path / "m", model, (), {})
    found = model_digest("sasrec", model.shape.to_json())
    assert load(tmp_path / "m").manifest == replace(
        device_of(model).manifest, model=found
    )  # nobody has tailored it yet
    other = device_of(made("sasrec", items=41))
    write_json(tmp_path / "m" / MANIFEST, other.manifest.to_json())
    with pytest.raises(ArtifactError, match="not the manifest's"):
        load(tmp_path / "m")
    (tmp_path / "m" / TENSORS).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="no tailored model"):
        load(tmp_path / "m")
    assert (tmp_path / "m" / CONFIG).is_file()
    with pytest.raises(ArtifactError, match="no device runs"):
        Device("bert4rec", {}, {}, other.manifest)
    with pytest.raises(ArtifactError, match="no device runs"):
        Device("din", {"form": "published"}, {}, other.manifest)
    for text in ("[]", '{"name": "sasrec"}', '{"name": "sasrec", "shape": 5}', '{"name": "sasrec", "shape": {}}'):
        (tmp_path / "m" / CONFIG).write_text(text)
        with pytest.raises(ArtifactError):
            load(tmp_path / "m")
