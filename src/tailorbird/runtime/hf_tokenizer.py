"""``AutoTokenizer.from_pretrained`` on an artifact's folder, where the tokenizer lies compressed.

transformers has no hook for that, so the method is wrapped: for a folder that holds an artifact, it is called with a
temporary folder that has the model's own files; for anything else nothing changes. A tokenizer alone needs no torch,
so what does is imported for an artifact only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tailorbird.errors import require


def _wrapped(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *inputs: Any, **settings: Any) -> Any:
        folder = Path(str(pretrained_model_name_or_path))
        if not (folder / "manifest.json").is_file() or not (folder / "tokenizer.json.xz").is_file():
            return plain(cls, pretrained_model_name_or_path, *inputs, **settings)
        with TemporaryDirectory() as unpacked:
            _unpack(folder, Path(unpacked))
            made = plain(cls, unpacked, *inputs, **settings)
        made.name_or_path = str(folder)
        return made

    return from_pretrained


def _unpack(folder: Path, out: Path) -> None:
    import torch

    from tailorbird.artifact.folder import write_small_files
    from tailorbird.artifact.reader import Artifact

    write_small_files(Artifact.open(folder), out, torch.float32)


_auto = require("transformers.models.auto.tokenization_auto", extra="hf").AutoTokenizer
_auto.from_pretrained = classmethod(_wrapped(_auto.from_pretrained.__func__))
