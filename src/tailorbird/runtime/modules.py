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
from tailorbird.formats import BitPlanes


class Valueless(Tensor):
    """A tensor that can be asked for its shape, dtype and the like, and for nothing else.

    A plain meta tensor won't do: its product with a real one is a real tensor of whatever was in memory.
    """

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
    """What packed layers share: the arrays of `BitPlanes` as buffers in place of the parameter ``weight``."""

    def install(self, planes: BitPlanes) -> None:
        """Take the weight out and the packed one in; other layers may hold the same arrays."""
        del self._parameters["weight"]
        self._rows, self._spec = planes.rows, planes.spec
        self._names = tuple(planes.arrays)
        for name, array in planes.arrays.items():
            self.register_buffer(name, array)

    @property
    def packed(self) -> BitPlanes:
        """The packed weight."""
        return BitPlanes(self._rows, self._spec, {name: self.get_buffer(name) for name in self._names})

    @property
    def weight(self) -> Tensor:
        """A stand-in with the weight's shape and dtype and no values: anything that needs values raises."""
        return torch.empty(self._rows, self._spec.cols, device="meta").as_subclass(Valueless)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Move the arrays with the module, but never change their dtype: scales are part of the code."""
        before = {name: self._buffers.pop(name) for name in self._names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, array in before.items():
            assert array is not None
            device = fn(torch.empty(0, device=array.device)).device
            self._buffers[name] = array if array.device == device else array.to(device)
        return self


class PackedLinear(Packed, nn.Linear):  # type: ignore[override]
    """A linear layer over a packed weight; the bias, if any, stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., columns) to (..., rows); weights are unpacked a few rows at a time."""
        out = self.packed.matmul(x)
        return out if self.bias is None else out + self.bias


class PackedEmbedding(Packed, nn.Embedding):  # type: ignore[override]
    """An embedding over a packed weight: only the rows that are looked up are unpacked."""

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids of any shape to (\\*ids.shape, columns)."""
        return self.packed.gather(ids)


def pack_module(layer: nn.Module, planes: BitPlanes) -> None:
    """Turn a linear layer or an embedding into a packed one, in place.

    Raises:
        ModelError: a layer of another kind, or of another shape than the packed weight.
    """
    base: type[Packed] = PackedLinear if isinstance(layer, nn.Linear) else PackedEmbedding
    if not isinstance(layer, nn.Linear | nn.Embedding) or isinstance(layer, Packed):
        raise ModelError(
            f"a {type(layer).__name__} can't hold a packed weight", hint="is this the artifact of this model?"
        )
    if tuple(layer.weight.shape) != planes.shape:
        raise ModelError(
            f"the layer's weight is {tuple(layer.weight.shape)}, the packed one {planes.shape}",
            hint="is this the artifact of this model?",
        )
    layer.__class__ = _packed_class(type(layer), base)  # type: ignore[assignment]
    base.install(layer, planes)  # type: ignore[arg-type]


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding}


def held_bytes(module: nn.Module) -> int:
    """Bytes of all weights a module holds, packed or not; those that several layers share once."""
    return sum({_place(t): t.numel() * t.element_size() for t in _tensors(module)}.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return (t for t in module.state_dict(keep_vars=True).values() if isinstance(t, Tensor) and not t.is_meta)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset())


def _packed_class(kind: type[nn.Module], base: type[Packed]) -> type[nn.Module]:
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"Packed{kind.__name__}", (kind, base), {})
    return _CLASSES[kind]
