"""What rounding activations, keys and values costs: perplexity of one artifact through the native decoder.

    python benchmarks/numerics.py .bench/speed/gptq-4bits

WikiText-2 raw test, windows of 1,024 tokens. Rows go to benchmarks/results/numerics.json; `make bench-speed` puts them
into docs/speed.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import date
from math import exp
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailorbird import data
from tailorbird.artifact import Artifact
from tailorbird.files import write_json
from tailorbird.kernels import native
from tailorbird.runtime.decoder import PREFILL, Settings, native_decoder
from tailorbird.runtime.load import load
from tailorbird.tasks.text import Tokenizer
from tailorbird.tasks.windows import evaluation_windows

RESULTS = Path(__file__).parent / "results" / "numerics.json"
# What is exact but for the rounding of keys and values to bfloat16 comes first.
SETTINGS = (Settings("fp32", "bf16"), Settings("int8", "bf16"), Settings("fp32", "int8"), Settings("int8", "int8"))


def main() -> None:
    """Measure every setting, print and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=16368)
    options = parser.parse_args()
    rows = [row for folder in options.artifacts for row in _rows(folder, options.tokens)]
    module = native.extension()
    document = {
        "command": " ".join(sys.argv), "date": date.today().isoformat(), "tokens": options.tokens,
        "kernels": module.variant() if module else None, "rows": rows,
    }  # fmt: skip
    write_json(RESULTS, document)


def _rows(folder: Path, tokens: int) -> list[dict[str, Any]]:
    artifact, model = Artifact.open(folder), load(folder)
    text = data.read_text(data.WIKITEXT2_TEST)
    windows = evaluation_windows(Tokenizer.of(artifact), text, tokens)
    found: list[dict[str, Any]] = []
    for settings in SETTINGS:
        value = _perplexity(model.module, settings, windows)
        first = found[0]["perplexity"] if found else value
        found.append(
            asdict(settings)
            | {"artifact": folder.name, "bits": artifact.bits, "perplexity": value, "change": value / first - 1}
        )
        print(f"{folder.name} {settings}: {value:.4f} {value / first - 1:+.3%}", flush=True)
    return found


def _perplexity(module: torch.nn.Module, settings: Settings, windows: Tensor) -> float:
    decoder = native_decoder(module, settings)
    if decoder is None:
        raise SystemExit("there are no native kernels, or they don't know this family")
    total, count = 0.0, 0
    for window in windows.tolist():
        sequence = decoder.start(len(window))
        for low in range(0, len(window) - 1, PREFILL):
            piece = window[low : min(low + PREFILL, len(window) - 1)]
            logits = sequence.push(piece, len(piece))
            targets = torch.tensor(window[low + 1 : low + 1 + len(piece)])
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            count += len(piece)
    return exp(total / count)


if __name__ == "__main__":
    main()
