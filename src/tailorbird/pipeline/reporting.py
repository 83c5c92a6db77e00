"""From what a compression gave to its report (`tailorbird.report`), and the recipe that makes it again."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

import tailorbird
from tailorbird.anatomy import Part
from tailorbird.anatomy.families import anatomy_of
from tailorbird.artifact import Artifact
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.checkpoint import Checkpoint
from tailorbird.files import write_atomic, write_json
from tailorbird.formats import PlaneSpec
from tailorbird.methods import find
from tailorbird.pipeline.compress import Result
from tailorbird.pipeline.quality import RECIPE, Quality
from tailorbird.plan import Plan

RECIPE_PLAN = "recipe.plan.json"
_LIBRARIES = ("torch", "numpy", "safetensors", "transformers", "tokenizers")
_BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def report_of(
    result: Result,
    source: Checkpoint,
    *,
    budget: Sequence[str] = (),
    quality: Quality | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> dict[str, Any]:
    """Everything a report shows, as plain data; what is not known is left out.

    Args:
        result: of `compress`.
        source: the original.
        budget: as it was asked for.
        quality: of the artifact, measured against the original.
        samples: records of prompt, original, compressed.
        command: what was typed.
    """
    artifact = result.artifact
    method = find(artifact.plan.method)
    kept = [info for name, info in artifact.stored.items() if name in artifact.tensors]
    return {
        "version": 1,
        "command": command,
        "versions": versions(),
        "machine": machine(),
        "model": original_of(source, artifact.plan),
        "method": {
            "name": method.name,
            "title": method.title,
            "paper": method.paper,
            "options": dict(artifact.plan.options),
        },
        "budget": list(budget),
        "digest": artifact.digest,
        "verified": artifact.manifest.verified,
        "artifact": {"bytes": artifact.nbytes, "bits": artifact.bits, "files": files_of(artifact)},
        "milliseconds": result.milliseconds,
        "slower": result.slower,
        "divergence": list(result.divergence),
        "parts": [_part(part, artifact.plan, result.facts.get(part.name, {})) for part in artifact.plan.parts],
        "kept_bytes": sum(info.nbytes for info in kept),
        "quality": None if quality is None else _quality(quality),
        "samples": [dict(row) for row in samples],
        "timings": dict(result.seconds),
    }


def original_of(source: Checkpoint, plan: Plan) -> dict[str, Any]:
    """The original: weights as bits are counted over, and the bytes of its tensors, configuration and tokenizer."""
    tensors = sum(info.nbytes for info in source.tensors.values())
    dtypes = Counter[str]()
    for info in source.tensors.values():
        dtypes[str(info.dtype).removeprefix("torch.")] += info.nbytes
    beside = [source.folder / name for name in _BESIDE]
    return {
        "source": source.source,
        "family": anatomy_of(source.config, source.source).name,
        "weights": plan.numel,
        "bytes": tensors + sum(path.stat().st_size for path in beside if path.is_file()),
        "bits": 8 * tensors / plan.numel,
        "dtype": dtypes.most_common(1)[0][0],
    }


def files_of(artifact: Artifact) -> dict[str, int]:
    """Bytes of every file the runtime loads."""
    sizes = {name: size for name, (size, _) in artifact.manifest.files.items()}
    return sizes | {MANIFEST: (artifact.folder / MANIFEST).stat().st_size}


def versions() -> dict[str, str]:
    """Versions of this package, Python, and the libraries that are there."""
    found = {"tailorbird": tailorbird.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and memory in GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": _processor(), "cores": cores, "memory_gb": round(memory / 1e9, 1) or None}


def write_recipe(folder: Path, values: Mapping[str, Any], plan: Plan | None = None) -> Path:
    """Write recipe.toml into an artifact: with ``--recipe`` it makes the artifact again.

    Args:
        folder: the artifact's.
        values: options of ``compress``: texts, numbers, truth values, lists of texts, and one table ``set``; None
            is left out.
        plan: an edited plan that was applied; it is kept beside the recipe.
    """
    if plan is not None:
        write_json(folder / RECIPE_PLAN, plan.to_json())
        values = {**values, "plan": RECIPE_PLAN}
    plain = {key: value for key, value in values.items() if value is not None and not isinstance(value, Mapping)}
    lines = ["# tailorbird compress --recipe recipe.toml --out NEW makes the same artifact again."]
    lines += [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{key}]", *(f"{_key(name)} = {_toml(value)}" for name, value in table.items())]
    write_atomic(folder / RECIPE, ("\n".join(lines) + "\n").encode())
    return folder / RECIPE


def _part(part: Part, plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    spec = plan.specs[part.name]
    return {
        "name": part.name,
        "role": part.role,
        "block": part.block,
        "shape": list(part.shape),
        "bits": spec.mean_bits,
        "group_bits": "".join(map(str, spec.bits)) if isinstance(spec, PlaneSpec) and spec.mixed else None,
        "group_size": getattr(spec, "group_size", None),
        "bytes": plan.part_bytes(part),
        "bytes_by": _bytes_by(spec.plan(part.shape[0]).arrays),
        "format": spec.label,
        "claimed_bits": facts.get("claimed_bits"),
        "error": facts.get("error"),
        "seconds": facts.get("seconds"),
    }


def _bytes_by(arrays: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes by kind of array; those of the terms of a sum (``planes_0``, ``planes_1``) together."""
    found: Counter[str] = Counter()
    for name, array in arrays.items():
        kind, _, number = name.rpartition("_")
        found[kind if number.isdigit() else name] += array.numel() * array.element_size()
    return dict(found)


def _quality(found: Quality) -> dict[str, Any]:
    how = {key: getattr(found, key) for key in ("text", "window", "stride", "tokens", "bos")}
    measured = {key: getattr(found, key) for key in ("perplexity", "kl", "top1_agreement")}
    return how | {"original": {"perplexity": found.reference_perplexity}, "compressed": measured}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string is a TOML string, but for one character JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else _toml(name)
