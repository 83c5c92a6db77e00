"""Compressed trunks: packed weights, our kernels, the same scores in numpy, patches as before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tailorbird
from tailorbird.artifact.manifest import Manifest
from tailorbird.errors import ArtifactError, DataError, ModelError, UsageError
from tailorbird.fit.finer import fit_finer
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec, RowSpec, SumSpec
from tailorbird.formats.rows import RowClasses
from tailorbird.pipeline import prepare
from tailorbird.runtime.modules import PackedEmbedding, PackedLinear
from tailorbird.tailor import folder as tailored
from tailorbird.tailor.device import load
from tailorbird.tailor.duet import Duet
from tailorbird.tailor.folder import tensors_of
from tailorbird.tailor.head import NAMES, manifest_for
from tailorbird.tailor.learn import Settings
from tailorbird.tailor.patch import full, identity
from tailorbird.tailor.systems import DUET
from tailorbird.tailor.trunk import read
from tailorbird.tailor.unpack import weight
from tailorbird.tailor.wire import encode
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.laid import laid

from .conftest import made, random_head

HISTORIES = [[7], [3, 1, 4, 1, 5], list(range(1, 30))]
ITEMS, WIDTH = 90, 16


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify in this process: a fresh one takes seconds to import what it needs."""
    import tailorbird.artifact.verify as verifying

    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Sequences:
    random = np.random.default_rng(0)
    events = [random.integers(1, ITEMS + 1, 24) for _ in range(12)]
    made = Sequences("made", np.arange(0, 24 * 13, 24), np.concatenate(events).astype(np.int64), ITEMS)
    monkeypatch.setattr("tailorbird.pipeline.recommender.store.load", lambda name: made)
    return made


def trained(path: Path, name: str, data: Sequences) -> Any:
    model = made(name, items=ITEMS)
    about = {"data": {"name": data.name, "digest": data.digest, "split": "leave-one-out"}}
    folder.save(path, model, tuple(f"film {i}" for i in range(ITEMS)), about)
    return model


def small(folder: Path, method: str, bits: int) -> Any:
    """The trunk in `folder`, with every weight in so many bits; on so few weights a budget would go into headers."""
    job = prepare(folder / "trunk", method, "90bits", {"rows": "false"})
    plan = job.planned({part.name: job.spec(part, bits) for part in job.model.parts}).plan
    return tailorbird.compress(folder / "trunk", folder / "small", plan=plan, samples=8).artifact


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_laid_out_it_is_the_same(name: str) -> None:
    model = made(name, items=ITEMS)
    other = laid(model)
    histories = [np.array(history) for history in HISTORIES]
    np.testing.assert_allclose(other.score(histories), model.score(histories), atol=1e-6)
    for key, tensor in model.state_dict().items():
        assert torch.equal(other.tensors()[key], tensor)
    assert other.tensors().keys() == model.state_dict().keys()
    ids = model.window(histories)
    np.testing.assert_allclose(other(ids).detach(), model.scores(model.states(ids)).detach(), atol=1e-6)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
@pytest.mark.parametrize(("method", "bits"), [("rtn", 8), ("gptq", 3)])
def test_compressed(tmp_path: Path, data: Sequences, name: str, method: str, bits: int) -> None:
    model = trained(tmp_path / "trunk", name, data)
    artifact = small(tmp_path, method, bits)
    assert "recommender.json" in artifact.manifest.files
    packed, about = read(tmp_path / "small")
    assert type(packed.items).__name__ == PackedEmbedding.__name__ and about["titles"][0] == "film 0"
    layers = [layer for layer in packed.modules() if isinstance(layer, PackedLinear)]
    assert len(layers) == len(artifact.plan.parts)  # the head shares the embedding's
    device = load(tmp_path / "small")
    for key, tensor in packed.tensors().items():
        np.testing.assert_array_equal(device.trunk[key], tensor.numpy())  # numpy unpacks bit for bit
    plain = np.stack([model.score([np.array(h)])[0] for h in HISTORIES])
    found = np.stack([packed.score([np.array(h)])[0] for h in HISTORIES])
    np.testing.assert_allclose(found, np.stack([device.scores(h) for h in HISTORIES]), atol=1e-5)
    error = np.linalg.norm(found - plain) / np.linalg.norm(plain)
    assert 0 < error < (0.05 if bits == 8 else 0.7)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_patches_on_a_compressed_trunk(tmp_path: Path, data: Sequences, name: str) -> None:
    trained(tmp_path / "trunk", name, data)
    small(tmp_path, "rtn", 6)
    packed, _ = read(tmp_path / "small")
    manifest = manifest_for(tensors_of(packed))
    made = tailored.Tailored(packed, DUET(), Duet(WIDTH), manifest, 0, {})
    tailored.save(tmp_path / "mine", tmp_path / "small", made, Settings(), {"log": []})
    whole = tailored.read(tmp_path / "mine")
    assert type(whole.trunk.items).__name__ == PackedEmbedding.__name__
    device = load(tmp_path / "mine")
    before = [device.scores(history) for history in HISTORIES]
    device.take(encode(identity("delta", device.trunk, manifest), device.trunk, manifest))
    for history, scores in zip(HISTORIES, before, strict=True):
        np.testing.assert_array_equal(device.scores(history), scores)  # the compressed trunk, bit for bit
    head = random_head()
    device.take(encode(full(head, manifest), device.trunk, manifest))
    with torch.no_grad():
        state = packed.last(packed.window([np.array(HISTORIES[1])]))
        w0, b0, w1, b1 = (torch.from_numpy(head[key]) for key in NAMES)
        wanted = packed.scores(state + torch.tanh(state @ w0.T + b0) @ w1.T + b1)[0].numpy()
    np.testing.assert_allclose(device.scores(HISTORIES[1]), wanted, atol=1e-5)


@pytest.mark.parametrize("bits", [(1,), (2,), (3, 3), (4, 2, 1, 2), (8, 5)])
@pytest.mark.parametrize("offset", ["none", "integer", "float"])
@pytest.mark.parametrize("scale", ["fp16", "u8"])
def test_numpy_unpacks_planes(bits: tuple[int, ...], offset: Any, scale: Any) -> None:
    torch.manual_seed(0)
    spec = PlaneSpec(bits, 12 if len(bits) < 3 else 8, offset, scale)
    planes = sweep(torch.randn(11, spec.cols), spec, minmax).pack()
    arrays = {name: array.numpy() for name, array in planes.arrays.items()}
    np.testing.assert_array_equal(weight(spec.to_json(), 11, spec.cols, arrays), planes.dequantize().numpy())


@pytest.mark.parametrize("more", [(1, 1, 1, 1), (0, 2, 0, 3)])
def test_numpy_unpacks_sums(more: tuple[int, ...]) -> None:
    """Of more than eight bits, as a trunk with a large budget has them."""
    torch.manual_seed(0)
    spec = SumSpec.finer(PlaneSpec.uniform(8, 32, 8), more)
    found = fit_finer(torch.randn(11, 32), spec).pack()
    arrays = {name: array.numpy() for name, array in found.arrays.items()}
    np.testing.assert_array_equal(weight(spec.to_json(), 11, 32, arrays), found.dequantize().numpy())
    term = spec.to_json()["terms"][0]
    for terms in ([], [term] * 9, [term | {"over": "101"}], [term | {"group_size": 5}], [term | {"over": "0000"}]):
        with pytest.raises((ValueError, IndexError, KeyError)):
            weight({"kind": "sum", "terms": terms}, 11, 32, arrays)


def test_numpy_unpacks_classes_of_rows() -> None:
    torch.manual_seed(0)
    specs = [PlaneSpec.uniform(bits, 16, 16) for bits in (1, 3, 8)]
    classes = torch.tensor([0, 1, 2, 1, 1, 0, 2, 0, 0, 1], dtype=torch.uint8)
    parts = [sweep(torch.randn(int((classes == k).sum()), 16), s, minmax).pack() for k, s in enumerate(specs)]
    rows = RowClasses.join(classes, parts)
    assert isinstance(rows.spec, RowSpec)
    arrays = {name: array.numpy() for name, array in rows.arrays.items()}
    np.testing.assert_array_equal(weight(rows.spec.to_json(), 10, 16, arrays), rows.dequantize().numpy())


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_graph_holds_packed_weights(tmp_path: Path, data: Sequences, name: str, bits: int) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from tailorbird.tailor.export import export

    trained(tmp_path / "trunk", name, data)
    small(tmp_path, "rtn", bits)
    done = export(tmp_path / "small", tmp_path / "x")
    assert done.error < 1e-4
    plain = sum(value.nbytes for key, value in load(tmp_path / "small").trunk.items() if "head" not in key)
    packed = b"MatMulNBits" in (tmp_path / "x" / "model.onnx").read_bytes()
    assert packed and plain > 4 * ITEMS * WIDTH


def test_a_device_without_torch(tmp_path: Path, data: Sequences) -> None:
    trained(tmp_path / "trunk", "gru4rec", data)
    small(tmp_path, "rtn", 4)
    code = (
        "import sys; from pathlib import Path; from tailorbird.tailor.device import load\n"
        f"print(*load(Path({str(tmp_path / 'small')!r})).scores([3, 1, 4])); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = load(tmp_path / "small").scores([3, 1, 4])
    np.testing.assert_allclose(np.array(done.stdout.split(), np.float32), wanted, rtol=1e-5)


def test_refusals(tmp_path: Path, data: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "trunk", "sasrec", data)
    with pytest.raises(UsageError, match="own training events"):
        tailorbird.compress(tmp_path / "trunk", tmp_path / "x", data="text.txt")
    with pytest.raises(UsageError, match="language model"):
        tailorbird.compress(tmp_path / "trunk", tmp_path / "x", method="rtn", allocate="measured")
    folder.save(tmp_path / "b", made("bert4rec", items=ITEMS), (), {})
    with pytest.raises(ModelError, match="bert4rec"):
        tailorbird.compress(tmp_path / "b", tmp_path / "x", method="rtn")
    other = Sequences("made", data.offsets, data.items[::-1].copy(), ITEMS)
    monkeypatch.setattr("tailorbird.pipeline.recommender.store.load", lambda name: other)
    with pytest.raises(DataError, match="other events"):
        tailorbird.compress(tmp_path / "trunk", tmp_path / "x", method="gptq")
    small(tmp_path, "rtn", 4)
    for name, text in (("plan.json", "{}"), ("plan.json", '{"parts": [{"name": "items", "shape": [9999999, 9999]}]}')):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "small", tmp_path / "bad")
        (tmp_path / "bad" / name).write_text(text)
        with pytest.raises(ArtifactError):
            load(tmp_path / "bad")
        with pytest.raises(ArtifactError):
            read(tmp_path / "bad")
    about = json.loads((tmp_path / "small" / "recommender.json").read_text())
    assert about["data"]["name"] == "made"


def test_a_device_verifies_the_files(tmp_path: Path, data: Sequences) -> None:
    """Every file but the manifest itself, whoever reads it."""
    trained(tmp_path / "trunk", "sasrec", data)
    artifact = small(tmp_path, "rtn", 4)
    packed, _ = read(tmp_path / "small")
    made = tailored.Tailored(packed, DUET(), Duet(WIDTH), manifest_for(tensors_of(packed)), 0, {})
    tailored.save(tmp_path / "mine", tmp_path / "small", made, Settings(), {"log": []})
    for name in artifact.manifest.files:
        for place, source in (("small", tmp_path / "small"), ("mine/trunk", tmp_path / "mine")):
            path = tmp_path / place / name
            whole = path.read_bytes()
            other = whole.replace(b"\n", b" ", 1) if name.endswith(".json") else whole[:-1] + bytes([whole[-1] ^ 1])
            path.write_bytes(other)
            with pytest.raises(ArtifactError, match="digest"):
                load(source)
            path.write_bytes(whole)
            load(source)


@pytest.mark.parametrize(
    "change", [{"group_size": 0}, {"group_size": "x"}, {"group_size": 5}, {"bits": 9}, {"bits": []}, {"bits": 10**9}]
)
def test_no_format(change: dict[str, Any]) -> None:
    spec = PlaneSpec.uniform(4, 16, 16)
    arrays = {name: a.numpy() for name, a in sweep(torch.randn(11, 16), spec, minmax).pack().arrays.items()}
    with pytest.raises(ValueError, match=r"groups of|bits"):
        weight(spec.to_json() | change, 11, 16, arrays)
    with pytest.raises(ValueError, match="format"):
        weight("planes", 11, 16, arrays)  # type: ignore[arg-type]
    odd = {"kind": "rows", "classes": [{"rows": 2**40} | spec.to_json(), {"rows": 1} | spec.to_json()]}
    with pytest.raises(ValueError, match="other rows"):
        weight(odd, 11, 16, {"classes": np.zeros(2, np.uint8)})


@pytest.mark.parametrize(
    "form", [{"group_size": 0}, {"group_size": -1}, "text", None, [], {"kind": "rows", "classes": 5}, {"bits": None}]
)
def test_a_plan_with_its_digest_is_no_reason_to_trust_it(tmp_path: Path, data: Sequences, form: Any) -> None:
    trained(tmp_path / "trunk", "sasrec", data)
    small(tmp_path, "rtn", 4)
    plan = json.loads((tmp_path / "small" / "plan.json").read_text())
    part = plan["parts"][0]
    part["format"] = part["format"] | form if isinstance(form, dict) else form
    (tmp_path / "small" / "plan.json").write_text(json.dumps(plan))
    Manifest.of(tmp_path / "small", {}).write(tmp_path / "small")
    with pytest.raises(ArtifactError):
        load(tmp_path / "small")
    with pytest.raises(ArtifactError):
        read(tmp_path / "small")


@pytest.mark.parametrize("shape", [{"width": 2**20}, {"layers": 1000}, {"layers": 1}, {"items": 2**24}])
def test_sizes_are_the_artifacts(tmp_path: Path, data: Sequences, shape: dict[str, int]) -> None:
    trained(tmp_path / "trunk", "sasrec", data)
    small(tmp_path, "rtn", 4)
    path = tmp_path / "small" / "recommender.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"shape": about["shape"] | shape}))
    Manifest.of(tmp_path / "small", {}).write(tmp_path / "small")
    with pytest.raises(ModelError):
        read(tmp_path / "small")
    if shape != {"layers": 1}:
        with pytest.raises(ArtifactError):
            load(tmp_path / "small")
