"""Opening Hugging Face folders, and the error for every way in which they can be broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tailorbird.checkpoint import Checkpoint, open_checkpoint
from tailorbird.errors import ModelError

A, B = torch.arange(12.0).reshape(4, 3), torch.ones(5, dtype=torch.bfloat16)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": A, "b": B}, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": A}, folder / "one.safetensors")
    save_file({"b": B}, folder / "two.safetensors")
    write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    return folder


def write_index(folder: Path, mapping: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))


def refused(source: Path | str, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        open_checkpoint(source)
    for word in words:
        assert word in caught.value.message + caught.value.hint
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_reads_tensors_and_rows(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    checkpoint = open_checkpoint(str(folder))
    assert isinstance(checkpoint, Checkpoint) and checkpoint.source == str(folder)
    assert checkpoint.config == {"model_type": "llama"} and checkpoint.tokenizer_file is None
    assert checkpoint.tensors["a"].shape == (4, 3) and checkpoint.tensors["b"].dtype == torch.bfloat16
    assert torch.equal(checkpoint.read("a"), A) and torch.equal(checkpoint.read("b"), B)
    assert torch.equal(checkpoint.read_rows("a", 1, 3), A[1:3])
    checkpoint.read("a").zero_()
    assert torch.equal(checkpoint.read("a"), A)  # copies are private
    with pytest.raises(ModelError, match="no tensor 'c'"):
        checkpoint.read("c")
    (folder / "tokenizer.json").write_text("{}")
    assert checkpoint.tokenizer_file == folder / "tokenizer.json"


def test_digest_depends_on_content_alone(single: Path, sharded: Path, tmp_path: Path) -> None:
    first = open_checkpoint(single).digest()
    shutil.copytree(single, tmp_path / "copy")
    assert open_checkpoint(tmp_path / "copy").digest() == first
    assert open_checkpoint(sharded).digest() != first
    save_file({"a": A + 1, "b": B}, single / "model.safetensors")  # same header, other weights
    assert open_checkpoint(single).digest() != first
    save_file({"a": A, "b": B}, single / "model.safetensors")
    assert open_checkpoint(single).digest() == first
    (single / "config.json").write_text('{"model_type": "qwen2"}')
    assert open_checkpoint(single).digest() != first


def test_links_are_followed(single: Path, tmp_path: Path) -> None:
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for file in single.iterdir():
        (linked / file.name).symlink_to(file)
    assert torch.equal(open_checkpoint(linked).read("a"), A)


def test_broken_shards(sharded: Path) -> None:
    two = sharded / "two.safetensors"
    whole = two.read_bytes()
    two.write_bytes(whole[:-1])
    refused(sharded, "truncated", "'b'", str(two))
    two.unlink()
    refused(sharded, "shard", str(two), "'b'", "download two.safetensors")
    two.write_bytes(whole)
    write_index(sharded, {"a": "one.safetensors", "c": "two.safetensors"})
    refused(sharded, "'c'", "two.safetensors", "download")


@pytest.mark.parametrize("mapping", [{"a": "../one.safetensors"}, {"a": "/etc/x.safetensors"}, {"a": "one.bin"}])
def test_shard_names_stay_in_the_folder(sharded: Path, mapping: dict[str, str]) -> None:
    write_index(sharded, mapping)
    refused(sharded, "names the shard", "do not use")


@pytest.mark.parametrize("mapping", [None, [], {"a": 1}])
def test_damaged_index(sharded: Path, mapping: object) -> None:
    write_index(sharded, mapping)
    refused(sharded, "weight_map")


def test_incomplete_folders(single: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is empty")
    (single / "config.json").write_text("[]")
    refused(single, "not a JSON object")
    (single / "config.json").write_text("{")
    refused(single, "can't be read as JSON")
    (single / "config.json").unlink()
    refused(single, "config.json", "is missing")
    (single / "config.json").write_text("{}")
    save_file({}, single / "model.safetensors")
    refused(single, "no tensors")
    (single / "model.safetensors").rename(single / "adapter.safetensors")
    refused(single, "neither model.safetensors nor", "adapter.safetensors")
    (single / "adapter.safetensors").rename(single / "pytorch_model.bin")
    refused(single, "pickle", "pytorch_model.bin", "convert with")
    (single / "pytorch_model.bin").rename(single / "m.gguf")
    refused(single, "GGUF", str(single / "m.gguf"))


def test_other_sources(single: Path, tmp_path: Path) -> None:
    refused(single / "model.safetensors", "single file", str(single))
    refused("no-such-model", "no model 'no-such-model'")
    refused(tmp_path / "nothing" / "here", "no model")
    refused("models/missing.gguf", "no model")
    refused("demo:llama", "demo:gemma-270m")
    (tmp_path / "x.pt").write_bytes(b"x")
    refused(tmp_path / "x.pt", "pickle")
    (tmp_path / "x.txt").write_bytes(b"x")
    refused(tmp_path / "x.txt", "not a model")


def test_a_path_wins_over_a_hub_id(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(single.parent.parent)
    name = f"{single.parent.name}/{single.name}"
    assert open_checkpoint(name).folder == Path(name)
