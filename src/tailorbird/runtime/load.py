"""Loading: an artifact, whose weights stay packed, or an original model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tailorbird.anatomy import Model, Part
from tailorbird.anatomy.model import Shaped
from tailorbird.anatomy.model import Source as Weights
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.artifact.reader import Artifact
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError
from tailorbird.formats import PackedWeight
from tailorbird.kernels.matrix import Activations
from tailorbird.plan import Plan
from tailorbird.runtime.decoder import Cached, Settings
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.runtime.modules import pack_module
from tailorbird.runtime.weights import native
from tailorbird.tasks.tokenizer import Source as Texts


class Source(Weights, Texts, Protocol):
    """What can be loaded: a `Checkpoint`, an `Artifact`, or anything alike."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        ...


class Tables(Protocol):
    """Packed weights by the name of their part, and tensors kept as they are."""

    @property
    def source(self) -> str:
        """Where they come from, for messages."""
        ...

    @property
    def plan(self) -> Plan:
        """Which parts are packed."""
        ...

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """Every tensor of the model by name, packed or not."""
        ...

    def planes(self, part: str) -> PackedWeight:
        """One packed weight."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, unpacked."""
        ...


@runtime_checkable
class Packed(Protocol):
    """A source whose weights can be had packed."""

    @property
    def plan(self) -> Plan:
        """Which parts are packed."""
        ...

    def planes(self, part: str) -> PackedWeight:
        """One packed weight."""
        ...


def load(
    source: str | Path | Source, *, dense: bool = False, activations: Activations = "int8", cache: Cached = "bf16"
) -> LanguageModel:
    """Load a language model to run it.

    Args:
        source: the folder of an artifact, whose weights stay packed in memory; or what `open_checkpoint` takes (a
            folder, a GGUF file, a Hub id, ``demo:NAME``), whose weights become float32; or one of these, opened.
        dense: unpack an artifact's weights too: more memory, and torch's own arithmetic.
        activations: what the native kernels multiply packed weights with: ``int8``, fast, or ``fp32``.
        cache: how the native decoder keeps keys and values: ``bf16`` or ``int8``.

    Raises:
        ModelError: the model is unknown or damaged.
        ArtifactError: the artifact is damaged.
    """
    opened = _open(source) if isinstance(source, str | Path) else source
    model = Model.open(opened)
    for name in model.kept():
        _assign(model.module, name, _float(model.read(name)))
    tables = opened if isinstance(opened, Packed) and not dense else None
    for part in model.parts:
        if tables is not None and part.name in tables.plan.specs:
            _pack(model.module, part, tables.planes(part.name), activations)
        else:
            _fill(model.module, part, _float(model.read(part.tensor)))
    return LanguageModel(model.module, opened, Settings(activations, cache))


def load_into(module: nn.Module, artifact: str | Path | Tables, *, activations: Activations = "int8") -> nn.Module:
    """Put an artifact's weights into a module of the user's: its linear layers become packed ones, in place.

    Args:
        module: a module of the kind the artifact was made from, with any weights.
        artifact: its folder, or opened.
        activations: as in `load`.

    Returns:
        The same module.

    Raises:
        ModelError: the module lacks a layer or tensor of the artifact, or has it in another shape; nothing was changed.
        ArtifactError: the artifact is damaged.
    """
    tables: Tables = Artifact.open(artifact) if isinstance(artifact, str | Path) else artifact
    check_fits(module, tables)
    packed = {part.tensor for part in tables.plan.parts}
    state = module.state_dict()
    for name in tables.tensors:
        if name not in packed:
            state[name].copy_(tables.read(name))
    for part in tables.plan.parts:
        _pack(module, part, tables.planes(part.name), activations)
    return module


def _open(source: str | Path) -> Source:
    folder = Path(source).expanduser()
    return Artifact.open(folder) if (folder / MANIFEST).is_file() else open_checkpoint(source)


def _pack(module: nn.Module, part: Part, planes: PackedWeight, activations: Activations) -> None:
    weight = native(planes) or planes
    for name in (part.name, *part.tied):
        pack_module(module.get_submodule(name), weight, activations)


def _fill(module: nn.Module, part: Part, weight: Tensor) -> None:
    shared = nn.Parameter(weight, requires_grad=False)
    for name in (part.name, *part.tied):
        module.get_submodule(name).weight = shared


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    if leaf in holder._parameters:
        setattr(holder, leaf, nn.Parameter(value, requires_grad=False))
    else:
        holder._buffers[leaf] = value


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def check_fits(module: nn.Module, tables: Tables) -> None:
    """Raise ModelError where a module can't take an artifact's weights; see `load_into`."""
    state = module.state_dict()
    tied = {f"{name}.weight": part.shape for part in tables.plan.parts for name in part.tied}
    wanted = {name: tuple(tensor.shape) for name, tensor in tables.tensors.items()} | tied
    for name, shape in wanted.items():
        found = tuple(state[name].shape) if name in state else "not there"
        if found != shape:
            raise ModelError(
                f"{tables.source} has a tensor {name!r} of shape {shape}; in {type(module).__name__} it is {found}",
                hint="give a module of the kind the artifact was made from",
            )
    for part in tables.plan.parts:
        for name in (part.name, *part.tied):
            layer = module.get_submodule(name)
            if not isinstance(layer, nn.Linear | nn.Embedding):
                raise ModelError(
                    f"{name!r} is a {type(layer).__name__}, which can't hold a packed weight",
                    hint="give a module of the kind the artifact was made from",
                )
