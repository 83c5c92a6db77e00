"""Building a model's modules without its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tailorbird.errors import ModelError, require

# Types of the weights are the checkpoint's own; the others could name code to fetch and run.
_IGNORED = (
    "auto_map",
    "quantization_config",
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "experts_implementation",
    # What transformers notes about where a configuration came from and how it was loaded.
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "_auto_class",
)


@contextmanager
def weightless() -> Iterator[None]:
    """While this holds, parameters of new modules go to the meta device; buffers (rotary tables) are real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, None if param is None else nn.Parameter(param.to("meta"), requires_grad=False))

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build(config: dict[str, Any], source: str) -> nn.Module:
    """The modules of a causal language model from its config.json, weights on the meta device, computing in float32.

    Code that comes with a checkpoint is never run: only model types transformers itself knows are built.

    Raises:
        ModelError: transformers does not know the type or refuses the configuration.
        MissingExtra: transformers is not installed (extra ``hf``).
    """
    transformers = require("transformers", extra="hf")
    settings = {key: value for key, value in config.items() if key not in _IGNORED}
    try:
        made = transformers.AutoConfig.for_model(**settings)
        with weightless(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except Exception as cause:
        raise ModelError(
            f"{source}: config.json does not describe a model that can be built: {cause}",
            hint="compare config.json with the one the model was published with",
        ) from cause
    assert isinstance(module, nn.Module)
    return module.eval()
