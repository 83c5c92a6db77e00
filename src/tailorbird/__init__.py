"""Tailorbird: fit one trained model to every device.

    import tailorbird
    result = tailorbird.compress("demo:gemma-270m", "out", method="slim-llm", budget="3bits")
    print(result.artifact.nbytes, result.artifact.bits)
    print("".join(tailorbird.load("out").generate("The capital of France is")))

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tailorbird.runtime.hf_hook import install as _let_transformers_read_artifacts

if TYPE_CHECKING:
    from tailorbird.artifact import Artifact
    from tailorbird.artifact.export import export
    from tailorbird.artifact.verify import verify
    from tailorbird.budget import Budget
    from tailorbird.errors import TailorbirdError
    from tailorbird.method import Method
    from tailorbird.pipeline.compress import compress
    from tailorbird.pipeline.prepare import prepare
    from tailorbird.pipeline.quality import evaluate
    from tailorbird.plan import Plan
    from tailorbird.runtime.load import load, load_into

__version__ = "0.1.0"

_HOME = {
    "Artifact": "tailorbird.artifact",
    "Budget": "tailorbird.budget",
    "Method": "tailorbird.method",
    "Plan": "tailorbird.plan",
    "TailorbirdError": "tailorbird.errors",
    "compress": "tailorbird.pipeline",
    "evaluate": "tailorbird.pipeline.quality",
    "export": "tailorbird.artifact.export",
    "load": "tailorbird.runtime.load",
    "load_into": "tailorbird.runtime.load",
    "prepare": "tailorbird.pipeline",
    "verify": "tailorbird.artifact.verify",
}

__all__ = [
    "Artifact",
    "Budget",
    "Method",
    "Plan",
    "TailorbirdError",
    "compress",
    "evaluate",
    "export",
    "load",
    "load_into",
    "prepare",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tailorbird' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


_let_transformers_read_artifacts()
