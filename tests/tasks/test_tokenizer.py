from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError
from tailorbird.tasks.text import Tokenizer


@pytest.fixture
def folder(make_model: Any, tmp_path: Path) -> Path:
    """A copy of a tiny model's folder, to be changed."""
    return Path(shutil.copytree(make_model("llama")[0], tmp_path / "model"))


def opened(folder: Path, **settings: Any) -> Tokenizer:
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"} | settings))
    return Tokenizer.of(open_checkpoint(folder))


def test_ids_and_text(folder: Path) -> None:
    tokenizer = opened(folder)
    text = "It sews é 日本 🪡"
    ids = tokenizer.encode(text)
    assert 0 not in ids
    assert tokenizer.prompt(text) == [0, *ids]
    assert tokenizer.prompt("<s>" + text) == [0, *ids]
    assert tokenizer.decode([0, *ids, 1]) == text
    assert len(tokenizer) == 320


def test_start_token_is_what_the_tokenizer_puts_unless_the_flag_says_no(folder: Path) -> None:
    assert opened(folder).bos == 0
    assert opened(folder, add_bos_token=True).bos == 0
    assert opened(folder, add_bos_token=False).bos is None
    assert opened(folder, add_bos_token=False).prompt("a") == opened(folder).encode("a")


def test_start_token_where_the_tokenizer_puts_none(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(data))
    # config.json names a start token, as Qwen's does; the model never saw it before a text.
    assert opened(folder).bos is None
    assert opened(folder, add_bos_token=True).bos == 0
    assert opened(folder, add_bos_token=True, bos_token={"content": "</s>"}).bos == 1


def test_end_tokens(folder: Path) -> None:
    assert opened(folder).eos == (1,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5, 999_999, "x"]}))
    assert opened(folder).eos == (1, 5)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert opened(folder, eos_token="</s>").eos == (1,)


def test_padding_and_truncation_in_the_file_are_ignored(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(opened(folder).encode("a b c d e f g h")) > 3


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x03", b'{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        opened(folder)


def test_a_model_without_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        opened(folder)


def test_an_artifact_gives_the_bytes(folder: Path) -> None:
    class Artifact:
        def __init__(self) -> None:
            self.folder = folder
            self.config = {"eos_token_id": 1}

        def tokenizer_bytes(self) -> bytes:
            return (self.folder / "tokenizer.json").read_bytes()

    tokenizer = Tokenizer.of(Artifact())
    assert (tokenizer.bos, tokenizer.eos) == (0, (1,))
