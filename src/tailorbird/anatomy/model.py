"""`Model`: a trained model laid out in blocks, whose weights are fetched when they are needed and let go again."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tailorbird.anatomy.anatomy import Anatomy
from tailorbird.anatomy.families import anatomy_of
from tailorbird.anatomy.generic import GENERIC
from tailorbird.anatomy.part import Part
from tailorbird.anatomy.sizes import Shaped, check_sizes
from tailorbird.anatomy.skeleton import build
from tailorbird.errors import ModelError
from tailorbird.formats.raw import raw_bytes

__all__ = ["Memory", "Model", "Shaped", "Source", "Weights"]

# Numbers looked at or converted at once.
CHUNK = 2**22


class Weights(Protocol):
    """Where a model's tensors come from: a `Checkpoint`, or memory."""

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """Every tensor by name."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, in its stored dtype."""
        ...

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of it."""
        ...


class Source(Weights, Protocol):
    """Weights with the configuration of the model they belong to: a `Checkpoint` or an `Artifact`."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        ...

    @property
    def source(self) -> str:
        """The model as the user named it."""
        ...


class Memory:
    """Tensors of a module the user holds."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self.tensors[name].detach().clone()

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of it."""
        return self.tensors[name][start:stop].detach().clone()


class Model:
    """A trained model: its modules on the meta device, its parts, and where their weights come from.

    Attributes:
        module: the torch module; `fill` and `drop` bring weights of a piece of it in and out.
        anatomy: its family.
        parts: what can be compressed, embedding first, head last.
        blocks: paths of the blocks, in order.
        config: config.json as read; empty for a module from memory.
    """

    def __init__(
        self, module: nn.Module, anatomy: Anatomy, weights: Weights, config: dict[str, Any], source: str
    ) -> None:
        self.module, self.anatomy, self.weights, self.config, self.source = (
            module,
            anatomy,
            weights,
            config,
            source,
        )
        # The first path of every module: one that is used under several names has its weights once.
        self._paths = {id(layer): name for name, layer in module.named_modules()}
        self.tied = self._is_tied()
        self.parts = anatomy.parts(module, self.tied)
        self.blocks = anatomy.block_names(module)
        self._names = self._source_names()
        if not self.parts:
            raise ModelError(
                f"{source} has no linear layers, so there is nothing to compress",
                hint="is this the right model?",
            )

    @classmethod
    def open(cls, source: Source) -> Model:
        """Lay out a checkpoint or an artifact.

        Raises:
            ModelError: the family is unknown, or a tensor is missing or has another shape than the configuration says.
        """
        anatomy = anatomy_of(source.config, source.source)
        check_sizes(source.config, source.tensors, source.source)
        module = build(source.config, source.source)
        return cls(module, anatomy, source, source.config, source.source)

    @classmethod
    def wrap(cls, module: nn.Module, anatomy: Anatomy = GENERIC) -> Model:
        """Lay out a module the user holds; the user's own stays as it is.

        Raises:
            ModelError: a bare linear layer, or nothing to compress.
        """
        if isinstance(module, nn.Linear):
            raise ModelError(
                "a bare Linear layer has no name that its part could go by", hint="give nn.Sequential(layer)"
            )
        weights = Memory(dict(module.state_dict()))
        model = cls(copy.deepcopy(module).eval(), anatomy, weights, {}, type(module).__name__)
        model.drop("")
        return model

    @property
    def numel(self) -> int:
        """Weights of all parts, tied ones once: what bits are counted against."""
        return sum(part.numel for part in self.parts if not part.copy_of)

    def kept(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that are stored as they are: norms, biases, positions."""
        packed = {part.tensor for part in self.parts} | {f"{name}.weight" for part in self.parts for name in part.tied}
        state = self.module.state_dict()
        return {name: tuple(state[name].shape) for name, _, _ in self._leaves("") if name not in packed}

    def read(self, name: str) -> Tensor:
        """A tensor by its name in the module, in its stored dtype.

        Raises:
            ModelError: it is not finite.
        """
        return self._finite(name, self.weights.read(self._names[name]))

    def gather(self, name: str, index: Tensor) -> Tensor:
        """Some rows of a tensor, in its stored dtype; only a few rows more than those are in memory at a time.

        Args:
            name: the tensor's name in the module, two dimensions.
            index: int64 (n,), rising.

        Raises:
            ModelError: a row is not finite.
        """
        rows, cols = self.weights.tensors[self._names[name]].shape
        found = []
        for low, high in _spans(rows, cols):
            mine = index[(index >= low) & (index < high)]
            if len(mine):
                found.append(self.weights.read_rows(self._names[name], low, high)[mine - low])
        return self._finite(name, torch.cat(found))

    def weight(self, part: Part) -> Tensor:
        """A part's weight as float32 (rows, cols): the one in place where its module is filled, else read."""
        placed = self.module.get_submodule(part.name).get_parameter("weight")
        if not placed.is_meta:
            return placed.data.float()
        weight = torch.empty(part.shape)
        for low, high in _spans(*part.shape):
            weight[low:high] = self._finite(part.tensor, self.read_rows(part, low, high))
        return weight

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        pieces = torch.split(tensor.reshape(-1), CHUNK) if tensor.is_floating_point() else ()
        if not all(bool(torch.isfinite(piece).all()) for piece in pieces):
            raise ModelError(
                f"{self.source}: tensor {self._names[name]!r} has values that are not finite (NaN or infinity)",
                hint="the checkpoint is damaged: fetch it again, or take an earlier one",
            )
        return tensor

    def fingerprint(self) -> str:
        """SHA-256 over all tensors; for models without a checkpoint."""
        digest = hashlib.sha256()
        for name in sorted(self._names):
            tensor = self.weights.read(self._names[name])
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(raw_bytes(tensor))
        return digest.hexdigest()

    def read_rows(self, part: Part, start: int, stop: int) -> Tensor:
        """Some rows of a part's weight, in its stored dtype."""
        return self.weights.read_rows(self._names[part.tensor], start, stop)

    def fill(
        self,
        prefix: str,
        compressed: Mapping[str, Tensor] | None = None,
        replaced: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Bring the weights of the module at `prefix` in, as float32; `compressed` ones (by part name) and `replaced`
        ones (by tensor name) in place of the stored."""
        compressed, replaced = compressed or {}, replaced or {}
        for name, owner, leaf in self._leaves(prefix):
            done = compressed.get(name.rpartition(".")[0]) if leaf == "weight" else None
            done = replaced.get(name) if done is None else done
            value = done if done is not None else self.read(name)
            self._put(owner, leaf, value.float() if value.is_floating_point() else value)

    def drop(self, prefix: str) -> None:
        """Let the weights of the module at `prefix` go."""
        for _, owner, leaf in self._leaves(prefix):
            if leaf in owner._parameters:
                self._put(owner, leaf, owner._parameters[leaf].to("meta"))  # type: ignore[union-attr]

    @staticmethod
    def _put(owner: nn.Module, leaf: str, value: Tensor) -> None:
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            owner._buffers[leaf] = value

    def _leaves(self, prefix: str) -> Iterator[tuple[str, nn.Module, str]]:
        """Name, module and place of every tensor of the module at `prefix`, each once and by its first name."""
        root, seen = self.module.get_submodule(prefix), set()
        for key in root.state_dict():
            inner, _, leaf = key.rpartition(".")
            owner = root.get_submodule(inner)
            path = self._paths[id(owner)]
            name = f"{path}.{leaf}" if path else leaf
            if name not in seen:
                seen.add(name)
                yield name, owner, leaf

    def _is_tied(self) -> bool:
        head, embedding = self.anatomy.head, self.anatomy.embedding
        if not head or not embedding:
            return False
        said = getattr(getattr(self.module, "config", None), "tie_word_embeddings", None)
        return f"{head}.weight" not in self.weights.tensors if said is None else bool(said)

    def _source_names(self) -> dict[str, str]:
        """The checkpoint's name of every tensor; checkpoints of the bare decoder lack the outer ``model.``.

        Raises:
            ModelError: missing, or of another shape.
        """
        wanted = self.kept() | {part.tensor: part.shape for part in self.parts}
        stored = self.weights.tensors
        bare = not any(name in stored for name in wanted)
        names = {name: name.removeprefix("model.") if bare else name for name in wanted}
        for name, shape in wanted.items():
            if names[name] not in stored:
                raise ModelError(
                    f"{self.source}: tensor {names[name]!r} is missing",
                    hint="the checkpoint is incomplete: fetch all its shards, or check that config.json belongs to it",
                )
            found = tuple(stored[names[name]].shape)
            if found != tuple(shape):
                raise ModelError(
                    f"{self.source}: tensor {names[name]!r} is {found}, config.json says {tuple(shape)}",
                    hint="config.json does not belong to these weights: fetch both again",
                )
        return names


def _spans(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK // max(1, cols))
    return ((low, min(low + step, rows)) for low in range(0, rows, step))
