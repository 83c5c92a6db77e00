"""Every system from training to a device: killed and resumed with the same result, sent, applied, simulated."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tailorbird.errors import ArtifactError, DataError, ModelError, UsageError
from tailorbird.tailor import folder as tailored
from tailorbird.tailor.detect import check
from tailorbird.tailor.device import PERSONAL, load
from tailorbird.tailor.fleet import fleet
from tailorbird.tailor.head import NAMES, mapped
from tailorbird.tailor.intellectreq import FORMS
from tailorbird.tailor.learn import heads_for
from tailorbird.tailor.patch import apply
from tailorbird.tailor.persona import Persona
from tailorbird.tailor.requests import POLICIES
from tailorbird.tailor.run import tailor_and_test
from tailorbird.tailor.simulate import simulate
from tailorbird.tailor.staleness import quality
from tailorbird.tailor.systems import SYSTEMS
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.split import last_events
from tailorbird.zoo.recommenders import folder

from .conftest import made

ITEMS = 30
SETTINGS: dict[str, Any] = {"epochs": 2, "batch": 64, "rate": 0.01, "samples": 200}


PERSONA = {"groups": 2, "clip": 0.5, "published": False, "dynamic": False}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def data() -> Sequences:
    """Users go round the items with a step of their own."""
    steps = [1 + user % 3 for user in range(24)]
    events = [(1 + (user + np.arange(14) * step) % ITEMS) for user, step in enumerate(steps)]
    return Sequences("made", np.arange(0, 14 * 25, 14), np.concatenate(events).astype(np.int64), ITEMS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, data: Sequences) -> Path:
    """A trunk, and a tailored model of every system."""
    out = tmp_path_factory.mktemp("systems")
    about = {"data": {"name": "made", "digest": data.digest, "split": "last-3"}}
    folder.save(out / "trunk", made("sasrec", items=ITEMS), (), about)
    for name in SYSTEMS:
        budget = 0.5 if name == "duet" else None
        tailor_and_test(out / "trunk", data, out / name, SETTINGS | extra(name), system=name, budget=budget)
    return out


def extra(name: str) -> dict[str, Any]:
    return {"groups": 2} if name == "persona" else {}


@pytest.mark.parametrize("name", SYSTEMS)
def test_killed_and_resumed_is_the_same(base: Path, tmp_path: Path, data: Sequences, name: str) -> None:
    out, options = tmp_path / "cut", SETTINGS | extra(name)
    stages = len({row["stage"] for row in tailored.read(base / name).about["log"]})
    assert stages == {"duet": 1, "diet": 2, "dieting": 2, "persona": 4}[name]
    seen = []

    def told(row: dict[str, Any]) -> None:
        seen.append((row["stage"], row["epoch"]))
        assert row["left"] >= 0
        raise Killed

    for _ in range(3):  # killed after every epoch of the first stages
        with pytest.raises(Killed):
            tailor_and_test(base / "trunk", data, out, options, told, system=name, resume=True)
    assert len(set(seen)) == 3 and not out.exists()
    with pytest.raises(UsageError, match="unfinished"):
        tailor_and_test(base / "trunk", data, out, options, system=name)
    with pytest.raises(UsageError, match="another training"):
        tailor_and_test(base / "trunk", data, out, options | {"rate": 0.02}, system=name, resume=True)
    tailor_and_test(base / "trunk", data, out, options, system=name, resume=True)
    for file in ("generator.safetensors", "manifest.json"):
        assert (out / file).read_bytes() == (base / name / file).read_bytes()
    logs = [json.loads((folder / "report.json").read_text())["log"] for folder in (out, base / name)]
    first, second = ([(row["stage"], row["epoch"], row["ndcg@10"]) for row in log] for log in logs)
    assert first == second  # epochs before a kill too
    assert not out.with_name("cut.training").exists()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_device_has_what_the_cloud_meant(base: Path, data: Sequences, name: str) -> None:
    whole, device = tailored.read(base / name), load(base / name)
    histories = [data.items[:5], data.items[20:29], data.items[40:41]]
    heads = heads_for(whole.trunk, whole.maker, histories, whole.window)
    for row, history in enumerate(histories):
        device.take(whole.message(history))
        patched = apply(whole.tensors, whole.patches([history])[0], whole.manifest)
        for key in NAMES:
            near = 0.02 * max(1.0, float(heads[key].abs().max()))
            np.testing.assert_allclose(patched[key], heads[key][row].numpy(), atol=near)
        state = device.state(history.tolist())
        table = device.tensors["items.weight"]
        np.testing.assert_allclose(device.scores(history.tolist()), table @ mapped(state, patched), atol=0.05)


@pytest.mark.parametrize("options", [{"published": "true"}, {"dynamic": "true"}])
def test_forms_of_persona(base: Path, tmp_path: Path, data: Sequences, options: dict[str, str]) -> None:
    """By an option from training to a device; what is random is saved, and every user has the patch that was meant."""
    out, quick = tmp_path / "made", SETTINGS | {"epochs": 1, "groups": 2}
    tailor_and_test(base / "trunk", data, out, quick | options, system="persona")
    whole, device = tailored.read(out), load(out)
    assert isinstance(whole.maker, Persona) and whole.about["options"] == PERSONA | {next(iter(options)): True}
    histories = [data.items[:5], data.items[20:29], data.items[40:41]]
    heads = heads_for(whole.trunk, whole.maker, histories, whole.window)
    for row, history in enumerate(histories):
        device.take(whole.message(history))
        for key in NAMES:
            np.testing.assert_allclose(device.tensors[key], heads[key][row].numpy(), atol=0.51 * 0.5 / 127)
    if "published" in options:
        first, second = (dict(editor.named_buffers()) for editor in whole.maker.editors)
        assert all(torch.equal(first[name], second[name]) for name in first) and first["weight0"].abs().max() > 1
    assert whole.maker.dynamic == ("dynamic" in options)


def test_a_device_knows_when_to_ask(base: Path, data: Sequences) -> None:
    """Before the first patch, and then as the detector of the folder says of the state at the request."""
    whole, device = tailored.read(base / "duet"), load(base / "duet")
    facts = whole.about["detector"]
    assert facts["budget"] == 0.5 and facts["devices"] == 5 and facts["rate"] <= 0.5
    history = data.items[:6].tolist()
    assert device.asks(history) and device.asking is not None
    device.take(whole.message(data.items[:4]), history[:4])
    for end in (4, 5, 6):
        wanted = device.asking.scores(device.state(history[:end])[None], device.state(history[:4])[None])[0]
        for threshold, asks in ((wanted - 1e-3, True), (wanted + 1e-3, False)):
            device.asking = dataclasses.replace(device.asking, threshold=float(threshold))
            assert device.asks(history[:end]) == asks
    device.take(whole.message(data.items[:6]))  # of no known history
    assert device.asks(history)
    with pytest.raises(UsageError, match="no detector"):
        load(base / "diet").asks(history)


@pytest.mark.parametrize("key", ["version", "manifest", "tensors", "threshold", "budget", "published", None])
def test_damaged_detectors(base: Path, tmp_path: Path, key: str | None) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(base / "duet", out)
    if key is None:
        file = out / "requester.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    else:
        about = json.loads((out / "requester.json").read_text())
        (out / "requester.json").write_text(json.dumps(about | {key: "other"}))
    for read in (tailored.read, load):
        with pytest.raises(ArtifactError, match="no detector"):
            read(out)


@pytest.mark.parametrize("change", [{"threshold": "0.5"}, {"threshold": True}, {"budget": float("nan")}, {"budget": 1}])
def test_odd_words_of_detectors(base: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(base / "duet", tmp_path / "odd")
    about = json.loads((tmp_path / "odd" / "requester.json").read_text())
    (tmp_path / "odd" / "requester.json").write_text(json.dumps(about | change))
    for read in (tailored.read, load):
        with pytest.raises(ArtifactError, match="no detector"):
            read(tmp_path / "odd")


def test_a_detector_of_too_many_bytes_is_not_read(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "duet", tmp_path / "long")
    with (tmp_path / "long" / "requester.safetensors").open("ab") as file:
        file.write(bytes(2**17))
    with pytest.raises(ArtifactError, match="too long"):
        load(tmp_path / "long")


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("dieting", "head.weight", (16, 15)), ("dieting", "head.bias", (15,)), ("dieting", "head.bias", None),
        ("dieting", "head.0.weight", (16, 16)), ("dieting", "items.weight", (ITEMS + 1, 16)),
        ("diet", "head.0.weight", (8, 8)), ("diet", "head.bias", (16,)),
        ("persona", "prototype.1.head.0.weight", (16, 8)), ("persona", "prototype.1.items.weight", (16, 16)),
    ],
)  # fmt: skip
def test_what_a_trunk_carries_has_the_sizes_of_a_head(
    base: Path, tmp_path: Path, name: str, key: str, shape: tuple[int, ...] | None
) -> None:
    shutil.copytree(base / name, tmp_path / "bad")
    own = load_file(tmp_path / "bad" / PERSONAL)
    own = {n: v for n, v in own.items() if n != key} | ({} if shape is None else {key: np.zeros(shape, np.float32)})
    save_file(own, tmp_path / "bad" / PERSONAL)
    with pytest.raises(ArtifactError, match=r"of the head|block of both"):
        load(tmp_path / "bad")


def test_refused_before_anything_is_trained(base: Path, tmp_path: Path, data: Sequences) -> None:
    def train(**options: Any) -> None:
        tailor_and_test(base / "trunk", data, tmp_path / "x", SETTINGS, pytest.fail, **options)

    for options in ({"budget": 0.0}, {"budget": 1.0}, {"budget": 0.5, "detector": "nobody"}):
        with pytest.raises(UsageError):
            train(**options)


@pytest.mark.parametrize("name", [*SYSTEMS, "trunk"])
def test_any_folder_is_simulated(base: Path, data: Sequences, name: str) -> None:
    """A trunk that nobody has tailored has heads by gradient steps."""
    found = simulate(tailored.read(base / name), last_events(data, 3), budgets=(0.0, 1.0), devices=6)
    rows = {(row["policy"], row["budget"]): row for row in found["rows"]}
    assert found["devices"] == 6 and rows["every", 1.0]["requests"] == 2 and found["payload"] > 0


@pytest.mark.parametrize("budget", [-0.1, 1.5, float("nan")])
def test_a_bad_budget_is_refused_before_anything_is_made(base: Path, data: Sequences, budget: float) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="budget"):
        simulate(tailored.read(base / "duet"), last_events(data, 3), budgets=(0.5, budget), told=said.append)
    assert not said


def test_too_few_devices_are_refused_before_anything_is_made(base: Path, data: Sequences) -> None:
    said: list[str] = []
    with pytest.raises(DataError, match="2 devices"):
        simulate(tailored.read(base / "duet"), last_events(data, 3), devices=2, told=said.append)
    two = last_events(Sequences("two", data.offsets[:3], data.items[:28], ITEMS), 3)
    with pytest.raises(DataError, match="2 devices"):
        check(0.5, "intellectreq", two, tailored.read(base / "duet").trunk)
    assert not said


def test_a_wide_head_has_room(tmp_path: Path, data: Sequences) -> None:
    """The message grows with the square of the width; int8 deltas of width 96 take more than 16 kB."""
    about = {"data": {"name": "made", "digest": data.digest, "split": "last-3"}}
    folder.save(tmp_path / "trunk", made("sasrec", items=ITEMS, width=96), (), about)
    found = tailor_and_test(tmp_path / "trunk", data, tmp_path / "wide", SETTINGS | {"epochs": 1})
    assert found["payload"] > 16_384
    device = load(tmp_path / "wide")
    device.take(tailored.read(tmp_path / "wide").message(data.items[:5]))
    assert load(tmp_path / "trunk").manifest.max_bytes == device.manifest.max_bytes < 2**17


def test_a_head_that_no_message_holds_is_told_before_training(
    base: Path, tmp_path: Path, data: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("tailorbird.tailor.head.MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="a head of width 16") as caught:
        tailor_and_test(base / "trunk", data, tmp_path / "x", SETTINGS, told.append)
    assert not told and "--shape width" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("persona", "tailor.json", {"options": {"groups": -1, "clip": 0.5}}),
        ("persona", "tailor.json", {"options": {"groups": 2**30, "clip": 0.5}}),
        ("persona", "tailor.json", {"options": {"groups": 60_000, "clip": 0.5}}),
        ("persona", "tailor.json", {"options": {"groups": 3, "clip": 0.5}}),
        ("persona", "tailor.json", {"options": {"groups": 2, "clip": "wide"}}),
        ("duet", "tailor.json", {"options": [1]}),
        ("duet", "tailor.json", {"settings": {"window": 2.5}}),
        ("duet", "tailor.json", {"method": "diet"}),
        ("diet", "tailor.json", {"options": {"share": -0.5}}),
        ("dieting", "tailor.json", {"options": {"share": float("nan")}}),
        ("dieting", "tailor.json", {"method": "diet"}),
        ("diet", "tailor.json", {"method": "dieting"}),
        ("dieting", "manifest.json", {"trunk": "0" * 64}),
        ("persona", "tailor.json", {"options": PERSONA | {"published": True}}),
        ("persona", "tailor.json", {"options": PERSONA | {"dynamic": [1]}}),
        ("duet", "manifest.json", {"tensors": [{"name": "x", "shape": [1], "actions": [], "max_abs": 1.0}]}),
        ("duet", "manifest.json", {"prototypes": 2}),
        ("duet", "manifest.json", {"trunk": "0" * 64}),
        ("duet", "recommender.json", {"shape": {"items": ITEMS, "length": 8, "width": 16, "layers": 2, "heads": 4}}),
    ],
)
def test_damaged_words(base: Path, tmp_path: Path, name: str, file: str, change: dict[str, Any]) -> None:
    shutil.copytree(base / name, tmp_path / "bad")
    words = json.loads((tmp_path / "bad" / file).read_text())
    (tmp_path / "bad" / file).write_text(json.dumps(words | change))
    with pytest.raises((ModelError, ArtifactError)):
        tailored.read(tmp_path / "bad")
    if file != "tailor.json":  # which a device never sees
        with pytest.raises(ArtifactError):
            load(tmp_path / "bad")


def test_bytes_and_ranks_without_and_with_every_request(base: Path, data: Sequences) -> None:
    """Never: not a byte after the first head, and its ranks. Always: every patch, and the ranks of fresh heads."""
    whole, split = tailored.read(base / "diet"), last_events(data, 3)
    found, real = simulate(whole, split, budgets=(0.0, 1.0), devices=6), fleet(whole, split, devices=6)
    rows = {(row["policy"], row["budget"]): row for row in found["rows"]}
    messages = [[len(whole.message(real.stream.history(d, e))) for e in range(3)] for d in range(6)]
    np.testing.assert_array_equal(real.nbytes, messages)
    fresh = np.stack([real.table[:, event, event + 1] for event in range(3)], 1)
    for policy in (*POLICIES, *FORMS):
        never, always = rows[policy, 0.0], rows[policy, 1.0]
        assert never["requests"] == 0 and always["requests"] == 2
        assert 6 * never["bytes_down"] == pytest.approx(real.nbytes[:, 0].sum(), abs=1e-6)
        assert 6 * always["bytes_down"] == pytest.approx(real.nbytes.sum(), abs=1e-6)
        for row, ranks in ((never, real.table[:, :, 1]), (always, fresh)):
            assert row["ndcg@10"]["mean"] == pytest.approx(quality(ranks)["ndcg@10"].mean, abs=1e-12)


def test_options_and_refusals(base: Path, tmp_path: Path, data: Sequences) -> None:
    with pytest.raises(UsageError, match="no system"):
        tailor_and_test(base / "trunk", data, tmp_path / "x", system="nobody")
    with pytest.raises(UsageError, match="share"):
        tailor_and_test(base / "trunk", data, tmp_path / "x", {"share": 0.3}, system="duet")
    assert tailored.read(base / "persona").about["options"] == PERSONA
    block, both = ((base / name / "personal.safetensors").stat().st_size for name in ("dieting", "diet"))
    assert block < 0.6 * both
    assert torch.equal(*(torch.from_numpy(tailored.read(base / "diet").personal[NAMES[0]]) for _ in range(2)))
    sizes = {name: len(tailored.read(base / name).message(data.items[:5])) for name in SYSTEMS}
    assert sizes["diet"] < sizes["duet"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_export_of_every_system(base: Path, tmp_path: Path, data: Sequences, name: str) -> None:
    """The graph gives the device's scores with the patches that the system sends, and each user has other ones."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from tailorbird.tailor.export import export, padded

    assert export(base / name, tmp_path / "x").error < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "model.onnx"), providers=["CPUExecutionProvider"])
    whole, device, scores = tailored.read(base / name), load(base / name), []
    ids = padded(device, [data.items[:5].tolist()])
    for history in (None, data.items[:5], data.items[20:29]):
        if history is not None:
            device.take(whole.message(history))
        scores.append(session.run(["scores"], {"ids": ids} | {key: device.tensors[key] for key in NAMES})[0][0])
        wanted = device.scores(data.items[:5].tolist())
        np.testing.assert_allclose(scores[-1], wanted, atol=1e-4 * np.abs(wanted).max())
    plain, first, second = scores
    assert np.abs(first - plain).max() > 1e-4 < np.abs(first - second).max()
