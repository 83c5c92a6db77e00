"""Decode and prefill of llama.cpp on the demo model: tokens a second by type, as JSON on standard output.

.bench/peers-venv/bin/python benchmarks/peers/speed.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import gguf_header
import llama_cpp
import llama_cpp_peer as peer
import model as demo

ROOT = Path(__file__).resolve().parents[2]
# Speed does not depend on the importance matrix, so every file is made without one, and kept for the next call.
RECIPES = (
    peer.Recipe("Q4_0"),
    peer.Recipe("Q2_K"),
    peer.Recipe("Q4_0", pure=True),
    peer.Recipe("IQ4_NL", pure=True),
    peer.Recipe("Q2_K", head="IQ4_NL"),
)
START = 16  # tokens of text before the first one decoded


def main() -> None:
    """Make each file, run it, print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=768, help="tokens before, the second time")
    parser.add_argument("--prefill-tokens", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "peers-work")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    source = demo.prepare(options.work, "gemma-270m")
    base = peer.sixteen_bits(source.gguf, options.work, options.threads)
    rows = [_row(source.gguf, "Q4_K_M as published", options)]
    for recipe in RECIPES:
        target = options.work / f"speed {recipe.name}.gguf"
        try:
            if not target.exists():
                partial = target.with_suffix(f".{os.getpid()}")
                peer.quantise(base, partial, recipe, {}, options.threads)
                partial.rename(target)
            rows.append(_row(target, recipe.name, options))
        except RuntimeError as error:
            print(f"{recipe.name}: {error}", file=sys.stderr)
    print(json.dumps({"version": peer.VERSION, "threads": options.threads, "rows": rows}))


def _row(path: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    ids = peer.tokenise(path, (ROOT / "README.md").read_text())
    ids = (ids * -(-options.prefill_tokens // len(ids)))[: options.prefill_tokens]
    rates: dict[str, list[float]] = {"prefill": [], "decode": [], "decode_long": []}
    with peer._context(path, options.threads) as (context, batch, _):
        memory = llama_cpp.llama_get_memory(context)
        for run in range(options.runs + 1):
            llama_cpp.llama_memory_clear(memory, True)
            took = {"prefill": len(ids) / _timed(context, batch, [ids])}
            for what, before in (("decode", START), ("decode_long", options.context)):
                llama_cpp.llama_memory_clear(memory, True)
                text = (ids * -(-before // len(ids)))[:before]
                _timed(context, batch, [text[at : at + len(ids)] for at in range(0, before, len(ids))])
                one_by_one = [[token] for token in (ids * 2)[START : START + options.decode_tokens]]
                took[what] = len(one_by_one) / _timed(context, batch, one_by_one, before)
            if run:
                for what, rate in took.items():
                    rates[what].append(rate)
    header = gguf_header.read(path)
    facts = {"peer": peer.PEER, "type": name, "bytes": path.stat().st_size, "weight_bytes": header.tensor_bytes}
    return facts | {f"{what}_tokens_per_s": median(rate) for what, rate in rates.items()}


def _timed(context: Any, batch: Any, pieces: list[list[int]], start: int = 0) -> float:
    """Seconds to run pieces of a text one after the other; logits of each piece's last token are computed."""
    began = perf_counter()
    for piece in pieces:
        batch.n_tokens = len(piece)
        for i, token in enumerate(piece):
            batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, int(i == len(piece) - 1)
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama.cpp could not run a piece")
        llama_cpp.llama_get_logits(context)
        start += len(piece)
    return perf_counter() - began


if __name__ == "__main__":
    main()
