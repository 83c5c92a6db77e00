"""transformers reads artifacts: a quantizer by whose hooks `from_pretrained` gets packed layers in place of weights.

transformers builds the model and initialises what is not stored (rotary tables); every tensor of the artifact is read
by our own reader, after all digests were checked. Loaded only where transformers is (see `hf_hook`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from transformers import __version__
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tailorbird.artifact.layout import HEAD, QUANTIZED
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.artifact.reader import Artifact
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.kernels.matrix import Activations
from tailorbird.runtime.load import check_fits, load_into

METHOD = QUANTIZED["quantization_config"]["quant_method"]


@auto.register_quantization_config(METHOD)
@dataclass
class TailorbirdConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json may say under ``quantization_config``.

    Attributes:
        quant_method: ``tailorbird``.
        activations: what the native kernels multiply packed weights with: ``int8`` or ``fp32``.
    """

    quant_method: str = METHOD
    activations: Activations = "int8"


@auto.register_quantizer(METHOD)
class TailorbirdQuantizer(HfQuantizer):  # type: ignore[misc]
    """Called by ``from_pretrained``: before the weights are loaded, and after."""

    requires_calibration = True

    def __init__(self, quantization_config: TailorbirdConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if quantization_config.activations not in get_args(Activations):
            raise UsageError(
                f"quantization_config has activations {quantization_config.activations!r}",
                hint=f"one of {', '.join(get_args(Activations))}",
            )
        self._artifact: Artifact | None = None
        self._taken: dict[str, nn.Parameter] = {}

    def validate_environment(self, *_: Any, **__: Any) -> None:
        """Refuse a transformers without the hooks below."""
        if not hasattr(HfQuantizer, "update_attn_implementation"):
            raise UsageError(
                f"transformers {__version__} can't read artifacts", hint="pip install --upgrade 'transformers>=5.20'"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Activations, norms and biases are float32, whatever was asked, as everywhere in this package."""
        return torch.float32

    def update_attn_implementation(self, config: Any) -> Any:
        """Name a file that transformers finds: it looks for one that no artifact has, and stops."""
        config.transformers_weights = HEAD
        return config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        """Check the artifact against the model, and take out the weights that will be packed, so that transformers
        does not make them."""
        artifact = self._artifact = _open(checkpoint_files)
        check_fits(model, artifact)
        for part in artifact.plan.parts:
            for name in (part.name, *part.tied):
                layer = model.get_submodule(name)
                self._taken[name] = layer.weight
                # Rows without columns: what initialises a module does not mind them, and they take no memory.
                layer.weight = nn.Parameter(layer.weight[:, :0])
        filled = {*artifact.tensors, *(f"{name}.weight" for name in self._taken)}
        model._keys_to_ignore_on_load_missing = _with(model._keys_to_ignore_on_load_missing, filled)
        model._keys_to_ignore_on_load_unexpected = _with(model._keys_to_ignore_on_load_unexpected, artifact.stored)
        # Layers that share a packed weight have no parameters to tie, now or later.
        ties = model._tied_weights_keys or {}
        model._tied_weights_keys = {a: b for a, b in ties.items() if a.removesuffix(".weight") not in self._taken}
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """Fill the model from the artifact."""
        assert self._artifact is not None
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) > 1:
            raise UsageError(
                f"a packed model lies on one device, not on {', '.join(sorted(map(str, devices)))}",
                hint='give device_map="cpu", or leave it out',
            )
        for name, weight in self._taken.items():
            model.get_submodule(name).weight = weight
        load_into(model, self._artifact, activations=self.quantization_config.activations)
        self._artifact, self._taken = None, {}
        vars(model.config).pop("transformers_weights")
        return model.to(devices.pop())

    def is_serializable(self) -> bool:
        """``save_pretrained`` refuses: the artifact's folder is the packed model's file form."""
        logging.getLogger(__name__).warning(
            "save_pretrained does not write packed weights: copy the artifact's folder, "
            "or write plain ones with: tailorbird export ARTIFACT --to hf"
        )
        return False

    @property
    def is_trainable(self) -> bool:
        """Packed weights stay as they are; adapters beside them can be trained."""
        return True


def _open(files: list[str] | None) -> Artifact:
    if not files:
        raise UsageError("no artifact was given", hint="call from_pretrained with the artifact's folder")
    folder = Path(files[0]).parent
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} is not a whole artifact: it has no {MANIFEST}",
            hint="fetch all files of the artifact into a folder, and give that folder",
        )
    return Artifact.open(folder)


def _with(patterns: Iterable[str] | None, names: Iterable[str]) -> set[str]:
    return {*(patterns or ()), *(f"^{re.escape(name)}$" for name in names)}
