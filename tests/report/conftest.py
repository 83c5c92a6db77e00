"""Reports as the pipeline writes them: the demo model (18 blocks, tied embedding), and other depths."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

KINDS = {
    "self_attn.q_proj": ("attention", [1024, 640]),
    "self_attn.k_proj": ("attention", [256, 640]),
    "self_attn.v_proj": ("attention", [256, 640]),
    "self_attn.o_proj": ("attention", [640, 1024]),
    "mlp.gate_proj": ("mlp", [2048, 640]),
    "mlp.up_proj": ("mlp", [2048, 640]),
    "mlp.down_proj": ("mlp", [640, 2048]),
}


def make_part(name: str, role: str, block: int | None, shape: list[int], draw: random.Random) -> dict[str, Any]:
    groups = [3] * (shape[1] // 64)
    if block is not None:
        for _ in range(len(groups) // 5 + 1):
            low, high = draw.sample(range(len(groups)), 2)
            groups[low], groups[high] = 2, 4
    bits = sum(groups) / len(groups)
    weights = shape[0] * shape[1]
    pieces = {"planes": int(weights * bits / 8), "scales": weights // 64, "zeros": weights // 64 // 2}
    return {
        "name": name,
        "role": role,
        "block": block,
        "shape": shape,
        "bits": bits,
        "group_bits": "".join(map(str, groups)) if block is not None else None,
        "group_size": 64,
        "bytes": sum(pieces.values()),
        "bytes_by": pieces,
        "error": 0.004 * (1 + (block or 0) / 6) * draw.uniform(0.7, 1.4) * (4 if "down" in name else 1),
        "seconds": draw.uniform(0.1, 0.5),
    }


def make_report(blocks: int = 18) -> dict[str, Any]:
    """What compressing the demo model could give; `blocks` other than 18 for other depths."""
    draw = random.Random(7)
    parts = [make_part("model.embed_tokens", "embedding", None, [262144, 640], draw)]
    parts += [
        make_part(f"model.layers.{block}.{kind}", role, block, shape, draw)
        for block in range(blocks)
        for kind, (role, shape) in KINDS.items()
    ]
    weights = sum(part["shape"][0] * part["shape"][1] for part in parts) + 55_936
    packed = sum(part["bytes"] for part in parts) + 111_872 + 21_480
    files = {
        "config.json": 1_374,
        "plan.json": 21_560,
        "manifest.json": 9_870,
        "tokenizer.json": 4_689_074,
        "tokenizer_config.json": 1_157,
        "embedding.safetensors": parts[0]["bytes"] + 200,
        "blocks.safetensors": packed - parts[0]["bytes"] - 200,
    }
    size = sum(files.values())
    return {
        "version": 1,
        "command": "tailorbird compress demo:gemma-270m --method slim-llm --budget 3bits --out small",
        "versions": {"tailorbird": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "safetensors": "0.6.2"},
        "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "memory_gb": 24},
        "model": {
            "source": "demo:gemma-270m",
            "family": "gemma",
            "weights": weights,
            "bytes": 2 * weights + 4_702_000,
            "dtype": "float16",
        },
        "method": {
            "name": "slim-llm",
            "title": "SliM-LLM: salience-driven mixed precision",
            "paper": "arXiv 2405.14917",
            "options": {"group_size": 64, "symmetric": False, "samples": 64},
        },
        "budget": ["3bits"],
        "digest": "3b5d5c3712955042212316173ccf37be80c4f1e5d83a0ae1b8a1d8dd1f0c8d2e",
        "verified": True,
        "artifact": {"bytes": size, "bits": 8 * size / weights, "files": files},
        "parts": parts,
        "kept_bytes": 111_872,
        "divergence": [0.4121, 0.3307, None, 0.3355],
        "quality": {
            "text": "WikiText-2 raw test",
            "window": 1024,
            "stride": 1023,
            "tokens": 16368,
            "bos": True,
            "original": {"perplexity": 16.94},
            "compressed": {"perplexity": 19.12, "kl": 0.1234, "top1_agreement": 0.8312},
        },
        "samples": [
            {
                "prompt": "The tailorbird builds its nest",
                "original": " in the leaves of a tree, stitching the edges together with plant fibre"
                " and spider silk.\nThe female does most of the sewing.",
                "compressed": " in the leaves of a tree, sewing them with fibres of plants. The nest is"
                " then lined with soft material, and the female lays three or four eggs.",
            }
        ],
        "timings": {"load": 3.1, "measure": 12.0, "fit": 80.1, "pack": 3.0, "verify": 4.0, "evaluate": 30.0},
    }


@pytest.fixture(scope="session", name="make_report")
def make_report_fixture() -> Callable[[int], dict[str, Any]]:
    return make_report


@pytest.fixture
def report() -> dict[str, Any]:
    return make_report()


@pytest.fixture(params=[1, 2, 80])
def other_depth(request: pytest.FixtureRequest) -> dict[str, Any]:
    return make_report(request.param)
