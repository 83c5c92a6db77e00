"""`import tailorbird` lets transformers read artifacts, without importing transformers.

transformers has hooks for quantizers, but finds no packages by itself. So our module that uses a hook is imported as
soon as the one that has it is there: at once where that is loaded already, else right after it was.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# A module of transformers, and the one of ours that is imported after it.
_FOLLOWS = {
    "transformers.quantizers.auto": "tailorbird.runtime.hf_quantizer",
    "transformers.models.auto.tokenization_auto": "tailorbird.runtime.hf_tokenizer",
}


class _After(MetaPathFinder):
    """Finds only the modules above, where Python would find them anyway."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own specification, with a loader that imports ours afterwards; None for any other module."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _FOLLOWS else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_then_follow(module: ModuleType) -> None:
            load(module)
            importlib.import_module(_FOLLOWS[fullname])

        spec.loader.exec_module = load_then_follow  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Import now what can be used now, and the rest when its time comes."""
    for name, ours in _FOLLOWS.items():
        if name in sys.modules:
            importlib.import_module(ours)
    sys.meta_path.insert(0, _After())
