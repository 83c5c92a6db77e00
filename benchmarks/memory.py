"""Peak memory of compressing a checkpoint that is much larger than it: a synthetic Llama of 4 GB, to 4 bits.

    python benchmarks/memory.py [--scratch DIR] [--layers 37] [--json FILE]

Every job runs in a process of its own. Its peak resident set (ru_maxrss), less that of a process that imports the
same libraries and does nothing, must stay below a quarter of the checkpoint's bytes. The verification that closes a
job is a process of its own too and is reported beside it. Random weights compress like trained ones as far as
memory goes; nothing is said about quality. About 6 GB of disk are needed, and twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT = 0.25
SHARD_BYTES = 10**9
METHODS = ("rtn", "gptq")
# What a job imports; the interpreter's own footprint is that of a process that stops here.
IMPORTS = "import torch, transformers, tokenizers, tailorbird.pipeline, transformers.models.llama.modeling_llama"


def config_of(layers: int) -> dict[str, Any]:
    """A Llama with the widths of a model of 1.1 billion weights, and so many layers."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def tensors_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in order."""
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    for i in range(config["num_hidden_layers"]):
        for name in "qkvo":
            yield f"model.layers.{i}.self_attn.{name}_proj.weight", (width, width)
        for name, shape in {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}.items():
            yield f"model.layers.{i}.mlp.{name}_proj.weight", shape
        yield f"model.layers.{i}.input_layernorm.weight", (width,)
        yield f"model.layers.{i}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocabulary, width)


def make_checkpoint(folder: Path, layers: int) -> int:
    """Write the model in shards, one tensor in memory at a time; returns the bytes of its weights."""
    import torch

    config = config_of(layers)
    torch.manual_seed(0)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in tensors_of(config):
        count = torch.Size(shape).numel() * 2
        if size + count > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += count
    index = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, shard)
        index |= {name: file for name, _ in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]]) -> None:
    import torch

    entries, at = {}, 0
    for name, shape in shard:
        end = at + 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        for _, shape in shard:
            norm = len(shape) == 1
            weight = torch.ones(shape) if norm else torch.randn(shape) * 0.5 / shape[1] ** 0.5
            handle.write(weight.bfloat16().view(torch.uint8).numpy().data)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["a small text"], trainer)
    made.save(str(folder / "tokenizer.json"))


def measured(code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a fresh interpreter: its peak resident bytes (VmHWM, else ru_maxrss) and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-c", f"import sys\n{code}\n{PEAK}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"peak": int(done.stdout.split()[-1]), "seconds": round(time.perf_counter() - start, 1)}


# ru_maxrss of a process starts with that of the one that started it, VmHWM with zero.
PEAK = """
from pathlib import Path
status = Path("/proc/self/status")
if status.exists():
    peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak)
"""
JOB = f"""{IMPORTS}
import tailorbird
tailorbird.compress(sys.argv[1], sys.argv[2], method=sys.argv[3], budget="4bits", samples=4, length=128)
"""
VERIFY = f"""{IMPORTS}
import tailorbird
tailorbird.verify(sys.argv[1])
"""


def run(scratch: Path, layers: int, methods: tuple[str, ...]) -> dict[str, Any]:
    """Make the checkpoint, compress it by every method, and gather the figures."""
    folder = scratch / "checkpoint"
    folder.mkdir(parents=True)
    # In a process of its own, so that this one stays small.
    code = "import sys; sys.path.insert(0, sys.argv[3]); import memory; from pathlib import Path\n"
    code += "memory.make_checkpoint(Path(sys.argv[1]), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(folder), str(layers), str(Path(__file__).parent)], check=True)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    base = measured(IMPORTS)["peak"]
    jobs = {}
    for method in methods:
        out = scratch / f"out-{method}"
        found = measured(JOB, str(folder), str(out), method)
        verify = measured(VERIFY, str(out))
        found["bytes"] = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        jobs[method] = found | {
            "above_import": found["peak"] - base,
            "share": round((found["peak"] - base) / size, 4),
            "verify_share": round((verify["peak"] - base) / size, 4),
        }
        shutil.rmtree(out)
        print(f"{method}: {jobs[method]}", file=sys.stderr)
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {"checkpoint_bytes": size, "import_bytes": base, "limit": LIMIT, "jobs": jobs, "machine": machine}


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"checkpoint {found['checkpoint_bytes'] / 1e9:.2f} GB, imports alone {found['import_bytes'] / 1e6:.0f} MB",
        f"{'method':8} {'peak MB':>8} {'above imports':>14} {'share':>7} {'verify':>7} {'seconds':>8} {'written':>8}",
    ]
    for method, job in found["jobs"].items():
        lines.append(
            f"{method:8} {job['peak'] / 1e6:8.0f} {job['above_import'] / 1e6:14.0f} {job['share']:7.1%} "
            f"{job['verify_share']:7.1%} {job['seconds']:8.0f} {job['bytes'] / 1e6:8.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and fail where a share is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="folder for the checkpoint; a temporary one without")
    parser.add_argument("--layers", type=int, default=38, help="38 layers are 4.2 GB")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-memory-", dir=given.scratch) as scratch:
        found = run(Path(scratch), given.layers, tuple(given.methods.split(",")))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    worst = max(max(job["share"], job["verify_share"]) for job in found["jobs"].values())
    sys.exit(0 if worst < LIMIT else f"{worst:.1%} of the checkpoint's bytes is above {LIMIT:.0%}")


if __name__ == "__main__":
    main()
