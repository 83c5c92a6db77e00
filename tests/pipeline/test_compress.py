"""Whole jobs on tiny models: what is written is what was planned, and the same arguments give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.verify import verify
from tailorbird.errors import DataError, ModelError, UsageError
from tailorbird.measure import states
from tailorbird.methods import find
from tailorbird.pipeline import compress, prepare
from tailorbird.plan import Plan

FAMILIES = ("llama", "untied", "gemma3", "opt")
# A job of each, as short as it gets.
METHODS: dict[str, dict[str, Any]] = {
    "rtn": {},
    "gptq": {},
    "slim-llm": {"search": 2},
    # Two steps would move every code by half a code each.
    "autoround": {"iterations": 20},
    "omniquant": {"iterations": 2},
    "slim-llm-plus": {"iterations": 2, "start": "sweep"},
    "planes": {},
    "billm": {},
    "pb-llm": {},
    "nf4": {},
    "hqq": {},
    "awq": {"grid": 3},
    "trellis": {"beam": 4},
}
SMALL = {"samples": 8, "length": 32}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_written_is_planned(model_of: Any, text: Path, tmp_path: Path, family: str, method: str) -> None:
    # Formats that are the method's own do not shrink with the budget, and column orders weigh much on so few rows.
    bits = 7 if find(method).own_format else 4
    # Rows alike: with classes of rows less than planned is written, and rows that no text reads may lose anything
    # (tests/pipeline/test_rows.py).
    options = METHODS[method] | {"rows": False}
    ready = prepare(model_of(family), method, f"{bits}bits", options)
    result = compress(
        model_of(family), tmp_path / "a", method=method, budget=f"{bits}bits", data=text, options=options, **SMALL
    )
    written = result.artifact
    stored = sum(path.stat().st_size for path in written.folder.glob("*.safetensors"))
    decides = method in ("slim-llm", "slim-llm-plus", "planes")
    assert stored <= ready.weight_bytes if decides else stored == ready.weight_bytes
    assert written.nbytes <= ready.nbytes
    assert written.bits <= bits
    assert verify(written.folder).digest == written.digest
    for part in written.plan.parts:
        assert written.planes(part.name).nbytes == result.facts[part.name]["bytes"]
        assert 0 < result.facts[part.name]["error"] < 0.5


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_read_back_are_the_packed_ones(model_of: Any, tmp_path: Path, family: str) -> None:
    compress(model_of(family), tmp_path / "a", method="rtn", budget="5bits")
    artifact = Artifact.open(tmp_path / "a")
    original, packed = prepare(model_of(family), "rtn", "5bits").model, Model.open(artifact)
    assert [part.name for part in packed.parts] == [part.name for part in original.parts]
    for part in packed.parts:
        assert torch.equal(packed.weight(part), artifact.planes(part.name).dequantize())
        assert torch.equal(packed.read_rows(part, 3, 9), artifact.planes(part.name).dequantize()[3:9])
    for name in original.kept():
        assert torch.equal(packed.read(name).float(), original.read(name).float())


@pytest.mark.usefixtures("here")
def test_tied_weights_are_stored_once(model_of: Any, tmp_path: Path) -> None:
    compress(model_of("gemma3"), tmp_path / "a", method="rtn", budget="4bits")
    artifact = Artifact.open(tmp_path / "a")
    assert [part.name for part in artifact.plan.parts if part.shape[0] == 320] == ["model.embed_tokens"]
    assert not any(name.startswith("lm_head") for name in artifact.stored)
    untied = prepare(model_of("untied"), "rtn", "4bits").plan
    assert {part.role for part in untied.parts if part.shape[0] == 320} == {"embedding", "head"}


@pytest.mark.usefixtures("here")
def test_same_arguments_same_digest(model_of: Any, text: Path, tmp_path: Path, tiny: SimpleNamespace) -> None:
    def digest(out: str, data: Path = text, **more: Any) -> str:
        return compress(
            model_of("llama"), tmp_path / out, method="gptq", budget="3.5bits", data=data, **SMALL, **more
        ).artifact.digest

    # One document leaves the seed nothing to choose: give several.
    lines = tmp_path / "lines.jsonl"
    words = text.read_text().split()
    lines.write_text("\n".join(json.dumps({"text": " ".join(words[i : i + 100])}) for i in range(0, 4000, 100)))
    assert digest("a") == digest("b")
    assert digest("a1", tiny.make_text(tmp_path / "other.txt", seed=5)) != digest("a2")
    assert digest("c", lines, seed=1) == digest("d", lines, seed=1)
    assert digest("e", lines, seed=2) != digest("f", lines, seed=1)


@pytest.mark.usefixtures("here")
def test_states_on_disk_change_nothing(
    model_of: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "gptq", "budget": "3.5bits", "data": text, **SMALL}
    memory = compress(model_of("gemma3"), tmp_path / "memory", **options).artifact.digest
    made: list[bool] = []
    plain = states.States.__init__

    def spilled(self: states.States, first: list[torch.Tensor], folder: Path, limit: int = 0) -> None:
        plain(self, first, folder, limit)
        made.append(self.spilled and any(folder.iterdir()))

    monkeypatch.setattr(states.States, "__init__", spilled)
    assert compress(model_of("gemma3"), tmp_path / "disk", **options).artifact.digest == memory
    assert made == [True, True]  # behind the original for the tied embedding, then behind what is compressed
    assert not list((tmp_path / "disk").rglob("state-*"))


@pytest.mark.usefixtures("here")
def test_an_edited_plan_is_applied(model_of: Any, tmp_path: Path) -> None:
    data = prepare(model_of("llama"), "rtn", "4bits").plan.to_json()
    name = data["parts"][2]["name"]
    data["parts"][2]["format"] |= {"bits": 7, "group_size": 16, "scale": "fp16"}
    plan = Plan.from_json(data)
    artifact = compress(model_of("llama"), tmp_path / "a", plan=plan).artifact
    assert artifact.plan.to_json() == data
    assert artifact.planes(name).spec.bits == (7,) * 4
    with pytest.raises(UsageError, match="the plan is not for"):
        prepare(model_of("opt"), plan=plan)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("method", METHODS)
def test_a_module_with_its_batches(tmp_path: Path, tiny: SimpleNamespace, method: str) -> None:
    module, batches = tiny.make_mlp(), [torch.randn(16, 64, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = compress(module, tmp_path / "a", method=method, budget="6bits", data=batches, options=METHODS[method])
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    artifact = Artifact.open(tmp_path / "a")
    assert verify(tmp_path / "a").digest == result.artifact.digest
    with torch.no_grad():
        wanted = module(batches[0])
        module.load_state_dict({name: artifact.read(name).float() for name in before})
        # A format of the method's own does not grow with the budget.
        assert (module(batches[0]) - wanted).norm() < (0.6 if find(method).own_format else 0.2) * wanted.norm()


def test_a_module_needs_batches_and_linear_layers(tmp_path: Path, tiny: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="needs its input batches"):
        compress(tiny.make_mlp(), tmp_path / "a", method="gptq", budget="6bits")
    with pytest.raises(ModelError, match="Sequential has no linear layers"):
        compress(torch.nn.Sequential(torch.nn.ReLU()), tmp_path / "a", method="rtn")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("family", "name"), [("llama", "model.layers.1.mlp.up_proj"), ("untied", "model.norm")])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_weight_that_is_not_finite(
    tiny: SimpleNamespace, text: Path, tmp_path: Path, family: str, name: str, method: str
) -> None:
    module = tiny.make_model(family, tmp_path / "model")
    with torch.no_grad():
        module.get_submodule(name).weight.view(-1)[-5] = float("nan")
    module.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=rf"tensor '{name}\.weight' has values that are not finite"):
        compress(tmp_path / "model", tmp_path / "a", method=method, budget="5bits", data=text, **SMALL)
    assert not (tmp_path / "a").exists()
    left = [path.name for path in tmp_path.glob("a.partial/*.safetensors")]
    # A tied embedding needs all of the original before anything is fitted.
    assert left == (["block-000.safetensors"] if family == "llama" and method == "rtn" else [])
    assert left or not (tmp_path / "a.partial").exists()
    assert not list(tmp_path.rglob(".*.partial"))


def test_calibration_files_of_the_wrong_kind(model_of: Any, tmp_path: Path) -> None:
    files = {
        "a.csv": (b"text\nhello\n", "not a kind of file"),
        "a.jsonl": (b'{"body": "hello"}\n', "line 1"),
        "a.txt": (b"\xff\xfe\x00h", "not UTF-8"),
        "b.txt": (b"short", "one window needs"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            compress(model_of("llama"), tmp_path / "a", method="gptq", data=tmp_path / name, **SMALL)
    with pytest.raises(DataError, match="is not a file"):
        compress(model_of("llama"), tmp_path / "a", method="gptq", data=tmp_path / "none.txt", **SMALL)
    with pytest.raises(DataError, match="calibrated on text"):
        compress(model_of("llama"), tmp_path / "a", method="gptq", data=[torch.zeros(2, 2)], **SMALL)
    assert not list(tmp_path.glob("a*partial")) and not (tmp_path / "a").exists()


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_damaged_tokenizer(tiny: SimpleNamespace, tmp_path: Path, method: str) -> None:
    tiny.make_model("llama", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        compress(tmp_path / "model", tmp_path / "a", method=method, **SMALL)
    assert not list(tmp_path.glob("a*"))


def test_a_missing_shard(tiny: SimpleNamespace, tmp_path: Path) -> None:
    module = tiny.make_model("llama", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    module.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    shard = sorted((tmp_path / "model").glob("*-of-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        compress(tmp_path / "model", tmp_path / "a", method="rtn")
    assert not list(tmp_path.glob("a*"))
