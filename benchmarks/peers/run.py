"""Run a demo model through other libraries and write one JSON: bytes, bits and perplexity of each.

.bench/peers-venv/bin/python benchmarks/peers/run.py --out .bench/peers.json
"""

from __future__ import annotations

import os

# Two OpenMP libraries live in this process (torch's and llama.cpp's): threads that wait must sleep, not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hqq_peer
import imatrix
import llama_cpp_peer
import model as demo
import protocol
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "src" / "tailorbird" / "data"
PUBLISHED = "Q4_K_M as published"
FIRST = 4  # rows of llama.cpp before those of HQQ
LIBRARIES = ("llama-cpp-python", "hqq", "torch", "transformers", "tokenizers", "numpy", "safetensors")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    bench = ROOT / ".bench"

    def path(name: str, default: Path | None, text: str) -> None:
        parser.add_argument(name, type=Path, default=default, help=text)

    path("--out", bench / "peers.json", "result file; its rows of the same settings are kept")
    path("--text", DATA / "wikitext2_raw_test.txt.gz", "text to score")
    path("--calibration", DATA / "calibration_wikipedia.jsonl.gz", "JSON lines with a field text")
    path("--work", bench / "peers-work", "folder for conversions (2 GB)")
    parser.add_argument("--model", default="gemma-270m", help="another of the demo models, or a GGUF file")
    parser.add_argument("--tokens", type=int, default=16_368, help="rounded down to windows of 1,023")
    parser.add_argument("--calibration-windows", type=int, default=64, help="of 512 tokens, for the imatrix")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _header(options: argparse.Namespace, source: demo.Source, calibration: str) -> dict[str, Any]:
    system = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "system": platform.platform(),
    }
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": system,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "model": _named(source.gguf) | {"weights": source.weights},
        "text": _named(options.text),
        "calibration": _named(options.calibration) | {"windows": options.calibration_windows, "id": calibration},
        "protocol": (protocol.__doc__ or "").strip(),
        "tokenizers_agree": True,
    }


def _named(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": protocol.file_digest(path)}


@dataclass(frozen=True)
class Bench:
    """What every job needs."""

    options: argparse.Namespace
    source: demo.Source
    cut: protocol.Ids
    importance: imatrix.Importance
    calibration: str

    def hqq(self, recipe: hqq_peer.Recipe) -> protocol.Row:
        return hqq_peer.row(self.source.folder, recipe, self.source.weights, self.cut)

    def published(self) -> protocol.Row:
        arguments = (self.source.gguf, PUBLISHED, self.source.weights, self.cut, self.options.threads, 0.0)
        return llama_cpp_peer.row(*arguments, note="the file the original is read from")

    def llama(self, recipe: llama_cpp_peer.Recipe) -> protocol.Row:
        threads, work = self.options.threads, self.source.folder.parent
        base = llama_cpp_peer.sixteen_bits(self.source.gguf, work, threads)
        target = work / f"candidate-{os.getpid()}.gguf"
        seconds = llama_cpp_peer.quantise(base, target, recipe, self.importance, threads)
        try:
            return llama_cpp_peer.row(target, recipe.name, self.source.weights, self.cut, threads, seconds)
        finally:
            target.unlink(missing_ok=True)

    def jobs(self) -> list[protocol.Job]:
        """The original first, then the peers, the most telling rows of each before the others."""
        settings = protocol.digest(
            protocol.file_digest(self.source.gguf), protocol.file_digest(self.options.text), self.cut.shape
        )
        calibrated = protocol.digest(settings, self.calibration)
        job, gguf = protocol.Job, (llama_cpp_peer.PEER, llama_cpp_peer.VERSION)
        llama = [
            job(*gguf, each.name, calibrated if each.importance else settings, partial(self.llama, each))
            for each in llama_cpp_peer.RECIPES
        ]
        original, *hqq = [
            job(each.peer, each.version, each.name, settings, partial(self.hqq, each))
            for each in (hqq_peer.ORIGINAL, *hqq_peer.RECIPES)
        ]
        published = job(*gguf, PUBLISHED, settings, self.published)
        return [original, published, *llama[:FIRST], *hqq, *llama[FIRST:]]


def main() -> None:
    """Prepare the model, measure the importance matrix, run what has no row yet."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    transformers_logging.disable_progress_bar()
    source = demo.prepare(options.work, options.model)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    text = protocol.read_text(options.text)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if ids != llama_cpp_peer.tokenise(source.gguf, text):
        raise SystemExit("llama.cpp and transformers cut the text into different tokens: no fair comparison")
    cut = protocol.windows(ids, options.tokens, tokenizer.bos_token_id)
    importance, calibration = imatrix.cached(source.folder, tokenizer, options.calibration, options.calibration_windows)
    results = protocol.Results(options.out, _header(options, source, calibration))
    for row, kept in results.run(Bench(options, source, cut, importance, calibration).jobs()):
        size = f"{row['bytes'] / 1e6:7.1f} MB {row['bits']:6.2f} bits  perplexity {row['perplexity']:9.3f}"
        print(f"{row['peer']:12} {row['type']:42} {size}{'  (kept)' if kept else ''}", flush=True)


if __name__ == "__main__":
    main()
