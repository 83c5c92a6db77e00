"""llama.cpp itself on what we write: its tokens, its logits, its unpacked blocks.

Needs llama-cpp-python (the extra ``llama``), in this Python or in the one named by TAILORBIRD_LLAMA_PYTHON.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

import tailorbird
import tailorbird.artifact.verify as verifying
from tailorbird.artifact.export import export
from tailorbird.artifact.reader import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.formats.ggml import TYPES, BlockType, decode
from tailorbird.pipeline import compress

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("TAILORBIRD_LLAMA_PYTHON", sys.executable)
CHILD = Path(__file__).with_name("llama_child.py")
TINY = runpy.run_path(str(Path(__file__).parents[2] / "pipeline" / "tiny.py"))
TEXTS = [
    *("The tailorbird stitches leaves", "  two spaces,  then   three\n\n\n", "def f(x):\n\treturn 3.14159"),
    *("na\u00efve caf\u00e9 \u6f22\u5b57 \U0001f600", "", " ", "IT'S 1234567890", "\u03a9 \u2014 \u201cquotes\u201d"),
]


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    code = "import llama_cpp, pathlib; print(pathlib.Path(llama_cpp.__file__).parent / 'lib' / 'libggml-base.so')"
    found = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True)
    return ctypes.CDLL(found.stdout.strip())


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in TYPES.items()])
def test_blocks_unpack_to_the_same_bits(kind: BlockType, library: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(kind.id)
    raw = torch.randint(0, 256, (3000, kind.nbytes), dtype=torch.uint8, generator=generator)
    raw[-2:], raw[-1] = 0, 255
    want = torch.empty(len(raw), kind.weights)
    unpack = getattr(library, f"dequantize_row_{kind.name.lower().replace('_k', '_K')}")
    unpack.argtypes, unpack.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    unpack(raw.data_ptr(), want.data_ptr(), want.numel())
    got = decode(raw, kind)
    assert ((got.view(torch.int32) == want.view(torch.int32)) | (got.isnan() & want.isnan())).all()
    library.ggml_type_name.restype = ctypes.c_char_p
    assert library.ggml_type_name(kind.id).decode().lower() == kind.name.lower()


def run(artifact: Path, out: Path, texts: list[str], ids: list[int], **options: Any) -> tuple[dict[str, Any], Any]:
    """Export and let llama.cpp load, tokenise, score and generate; returns what it said and its logits."""
    export(artifact, out, "gguf", options=options)
    request = {"texts": texts, "ids": ids, "new": 8, "logits": str(out.with_suffix(".npy"))}
    command = [PYTHON, str(CHILD), str(out / "model.gguf"), json.dumps(request)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), torch.from_numpy(np.load(request["logits"]))


def agree(got: torch.Tensor, want: torch.Tensor, most: float) -> None:
    """llama.cpp rounds activations to 8 bits and attends in halves; Kullback-Leibler divergence in nats."""
    want, got = want.double().log_softmax(-1), got.double().log_softmax(-1)
    assert (want.exp() * (want - got)).sum(-1).mean() < most


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("options", [{}, {"type": "Q8_0"}], ids=["smallest", "Q8_0"])
def test_tiny_models_score_alike(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    if family == "gemma3":
        changes |= {"query_pre_attn_scalar": 64, "num_hidden_layers": 7}
    if family == "gemma2":
        changes |= {"query_pre_attn_scalar": 64}
    if family not in TINY["CONFIGS"]:
        TINY["CONFIGS"][family] = TINY["CONFIGS"]["llama"] | {"model_type": family}
    TINY["make_model"](family, tmp_path / "model", **changes)
    text = TINY["make_text"](tmp_path / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        job = {"method": "rtn", "budget": "6bits", "data": text, **TINY["SMALL"]}
        compress(tmp_path / "model", tmp_path / "artifact", **job)
    artifact = Artifact.open(tmp_path / "artifact")
    tokenizer = Tokenizer.from_str(artifact.tokenizer_bytes().decode())
    ids = tokenizer.encode(TINY["TEXT"]).ids[:24]
    said, logits = run(tmp_path / "artifact", tmp_path / "out", TEXTS, ids, **options)
    assert said["tokens"] == [tokenizer.encode(text).ids for text in TEXTS]
    want = tailorbird.load(tmp_path / "artifact").logits(torch.tensor([ids]))[0]
    agree(logits, want, 0.01)
    assert len(said["made"]) == 8


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact all of whose rows divide into blocks of 256."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64}
    TINY["make_model"]("llama", folder / "model", **sizes)
    job = {"method": "rtn", "budget": "8bits", "data": TINY["make_text"](folder / "text.txt"), **TINY["SMALL"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "_verify_afresh", verifying.verify)
        compress(folder / "model", folder / "artifact", **job)
    return folder / "artifact"


@pytest.mark.parametrize("name", TYPES)
def test_kernels_of_every_type(name: str, wide: Path, tmp_path: Path) -> None:
    """Its products with a block type agree with ours on the unpacked values."""
    ids = list(range(2, 26))
    _, logits = run(wide, tmp_path / "out", [], ids, type=name)
    back = open_checkpoint(tmp_path / "out" / "model.gguf", cache=tmp_path / "cache")
    model = transformers.AutoModelForCausalLM.from_pretrained(back.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0]
    agree(logits, want, 0.02)


def test_the_demo_model(tmp_path: Path) -> None:
    """A real tokenizer and a real model, in 4 bits."""
    plain = {"scale": "fp16", "symmetric": True, "group_size": 32}
    job = {"method": "rtn", "budget": "4.5bits", "options": plain, "samples": 8, "length": 128}
    compress("demo:gemma-270m", tmp_path / "artifact", **job)
    tokenizer = Tokenizer.from_str(Artifact.open(tmp_path / "artifact").tokenizer_bytes().decode())
    texts = [*TEXTS, "<start_of_turn>user\nhi<end_of_turn>\n"]
    ids = tokenizer.encode("The tailorbird stitches leaves together to make its nest, which is").ids
    said, logits = run(tmp_path / "artifact", tmp_path / "out", texts, ids)
    assert said["tokens"] == [tokenizer.encode(text).ids for text in texts]
    want = tailorbird.load(tmp_path / "artifact").logits(torch.tensor([ids]))[0]
    agree(logits, want, 0.05)
    assert len(set(said["made"])) > 3
