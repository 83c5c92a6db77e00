"""Modules whose weights stay packed.

A layer is turned into a packed one in place: its class is replaced by one that comes after the layer's own class
in the order of method resolution. A subclass that calls ``super().forward()``, such as Gemma's scaled embedding,
keeps working, and so do hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.errors import ModelError
from tailorbird.formats import PackedWeight
from tailorbird.kernels.matrix import Activations
from tailorbird.runtime.weights import LaidOutWeight, native


class Valueless(Tensor):
    """A tensor that can be asked for its shape, dtype and the like, and for nothing else.

    A plain meta tensor won't do: its product with a real one is a real tensor of whatever was in memory.
    """

    place: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the packed weight lies: libraries put what they add to a layer there."""
        return self.place

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _FACTS:
            raise ModelError(
                "the values of a packed weight were asked for",
                hint="this layer computes with its weight in its own way: load with dense=True",
            )
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


_GETTERS = ("shape", "dtype", "device", "ndim", "requires_grad", "is_meta", "layout")
_METHODS = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.element_size, Tensor.is_floating_point, Tensor.__repr__)
_FACTS = {getattr(Tensor, name).__get__ for name in _GETTERS} | set(_METHODS)


class Packed(nn.Module):
    """What packed layers share in place of the parameter ``weight``: a weight laid out for kernels, or its stored
    arrays as buffers."""

    def install(self, weight: PackedWeight | LaidOutWeight, activations: Activations) -> None:
        """Take the weight out and the packed one in; other layers may hold the same."""
        del self._parameters["weight"]
        self._rows, self._spec = weight.rows, weight.spec
        self.activations = activations
        self._names: tuple[str, ...] = ()
        self._hold(weight)

    @property
    def packed(self) -> PackedWeight:
        """The packed weight as it is stored; made anew each time where it is laid out."""
        if self.native is not None:
            return self.native.planes()
        return self._spec.plan(self._rows).with_arrays({name: self.get_buffer(name) for name in self._names})

    @property
    def weight(self) -> Tensor:
        """A stand-in with the weight's shape and dtype and no values: anything that needs values raises."""
        stand_in = torch.empty(self._rows, self._spec.cols, device="meta").as_subclass(Valueless)
        stand_in.place = self.native.device if self.native is not None else self.get_buffer(self._names[0]).device
        return stand_in

    def _hold(self, weight: PackedWeight | LaidOutWeight) -> None:
        for name in self._names:
            del self._buffers[name]
        self.native = weight if isinstance(weight, LaidOutWeight) else None
        arrays = weight.arrays if isinstance(weight, PackedWeight) else {}
        self._names = tuple(arrays)
        for name, array in arrays.items():
            self.register_buffer(name, array)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Move the weight with the module, but never change a dtype: scales are part of the code.

        Where it arrives it is laid out for the kernels of that device; where there are none it becomes its arrays.
        """
        weight = self.native or self.packed
        device = fn(torch.empty(0, device=weight.device)).device
        buffers = {name: self._buffers.pop(name) for name in self._names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(buffers)
        if device != weight.device:
            moved = weight.to(device)
            self._hold((native(moved) or moved) if isinstance(moved, PackedWeight) else moved)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.native is not None:
            destination.update({prefix + name: array for name, array in self.packed.arrays.items()})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.native is not None:
            names = self._spec.plan(self._rows).arrays
            found = {name: state_dict.pop(prefix + name) for name in names if prefix + name in state_dict}
            if found:
                self.native = native(self._spec.read(self._rows, found).to(self.native.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class PackedLinear(Packed, nn.Linear):  # type: ignore[override]
    """A linear layer over a packed weight; the bias, if any, stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., columns) to (..., rows).

        The kernels have no gradients; where one is wanted, and without them, the reference unpacks the weights
        a few rows at a time.
        """
        wants_gradient = x.requires_grad and torch.is_grad_enabled()
        if self.native is None or wants_gradient:
            out = self.packed.matmul(x)
        else:
            out = self.native.matmul(x, self.activations)
        return out if self.bias is None else out + self.bias


class PackedEmbedding(Packed, nn.Embedding):  # type: ignore[override]
    """An embedding over a packed weight: only the rows that are looked up are unpacked."""

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids of any shape to (\\*ids.shape, columns)."""
        return self.packed.gather(ids) if self.native is None else self.native.gather(ids)


def pack_module(layer: nn.Module, weight: PackedWeight | LaidOutWeight, activations: Activations = "int8") -> None:
    """Turn a linear layer or an embedding into a packed one, in place.

    Args:
        layer: a linear layer or an embedding.
        weight: laid out here where there are kernels for its device; several layers share one `LaidOutWeight`.
        activations: ``int8`` or ``fp32``, for a linear layer with native kernels; see `PackedMatrix.matmul`.

    Raises:
        ModelError: a layer of another kind, or of another shape than the packed weight.
    """
    base: type[Packed] = PackedLinear if isinstance(layer, nn.Linear) else PackedEmbedding
    if not isinstance(layer, nn.Linear | nn.Embedding) or isinstance(layer, Packed):
        raise ModelError(
            f"a {type(layer).__name__} can't hold a packed weight", hint="is this the artifact of this model?"
        )
    shape = (weight.rows, weight.spec.cols)
    if tuple(layer.weight.shape) != shape:
        raise ModelError(
            f"the layer's weight is {tuple(layer.weight.shape)}, the packed one {shape}",
            hint="is this the artifact of this model?",
        )
    if isinstance(weight, PackedWeight):
        weight = native(weight) or weight
    layer.__class__ = _packed_class(type(layer), base)  # type: ignore[assignment]
    base.install(layer, weight, activations)  # type: ignore[arg-type]


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding}


def held_bytes(module: nn.Module) -> int:
    """Bytes of all weights a module holds, packed or not; those that several layers share once."""
    tensors = {_place(t): t.numel() * t.element_size() for t in _tensors(module)}
    layouts = {id(w): w.nbytes for m in module.modules() if isinstance(m, Packed) and (w := m.native) is not None}
    return sum(tensors.values()) + sum(layouts.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    # Not state_dict(): that would give the stored form of what is laid out.
    for part in module.modules():
        kept = {name: t for name, t in part._buffers.items() if name not in part._non_persistent_buffers_set}
        for tensor in (*part._parameters.values(), *kept.values()):
            if tensor is not None and not tensor.is_meta:
                yield tensor


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())


def _packed_class(kind: type[nn.Module], base: type[Packed]) -> type[nn.Module]:
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"Packed{kind.__name__}", (kind, base), {})
    return _CLASSES[kind]
