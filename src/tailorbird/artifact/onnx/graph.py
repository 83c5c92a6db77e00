"""An ONNX graph under construction: nodes in memory, weights streamed to one file beside it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tailorbird.errors import require
from tailorbird.formats.raw import raw_bytes

MODEL, DATA = "model.onnx", "model.onnx.data"
EXTRA = "onnx"
# The newest operators used are Gelu (20) and whatever is older; ONNX Runtime's own are in its domain.
OPSET, IR = 21, 10
MICROSOFT = "com.microsoft"
_ALIGN = 64
# Tensors up to this size stand in the graph itself, where shape inference can see them.
_INLINE = 1024
_TYPES = {torch.float32: "FLOAT", torch.uint8: "UINT8", torch.int64: "INT64"}


class Nowhere(io.BytesIO):
    """A file that keeps nothing but its place."""

    _place = 0

    def tell(self) -> int:
        """How much was written."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte counted from the start."""
        self._place = offset
        return offset

    def write(self, data: Any) -> int:
        """Forget the data."""
        self._place += len(data)
        return len(data)


class Graph:
    """Nodes and weights of a graph.

    Args:
        data: takes the weights; without it they stand in the graph.
        initializers: weights there are already.
    """

    def __init__(self, data: BinaryIO | None, initializers: Mapping[str, Any] | None = None) -> None:
        self.onnx: ModuleType = require("onnx", extra=EXTRA)
        self.nodes: list[Any] = []
        self.initializers = dict(initializers or {})
        self._data = data

    def add(self, operator: str, *inputs: str, domain: str = "", place: int = 0, **attributes: Any) -> str:
        """A node of which one output is used, at a place among its outputs; its name is given back."""
        name = f"{operator}_{len(self.nodes)}"
        make = self.onnx.helper.make_node
        self.nodes.append(make(operator, list(inputs), [""] * place + [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: Tensor | float | list[int], name: str = "") -> str:
        """A tensor, a float32 number, or int64 numbers; equal names mean equal tensors."""
        if isinstance(value, Tensor):
            tensor = value
        else:
            tensor = torch.tensor(value, dtype=torch.int64 if isinstance(value, list) else torch.float32)
        name = name or f"{'constant' if self._data else 'own'}_{len(self.initializers)}"
        if name not in self.initializers:
            self.stream(name, tuple(tensor.shape), tensor.dtype, [tensor])
        return name

    def stream(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, pieces: Iterable[Tensor]) -> str:
        """A weight that comes in consecutive pieces."""
        size = math.prod(shape) * dtype.itemsize
        tensor = self.onnx.TensorProto(name=name, dims=shape, data_type=getattr(self.onnx.TensorProto, _TYPES[dtype]))
        if size <= _INLINE or self._data is None:
            tensor.raw_data = b"".join(bytes(raw_bytes(piece)) for piece in pieces)
        else:
            start = -(-self._data.tell() // _ALIGN) * _ALIGN
            self._data.seek(start)
            for piece in pieces:
                self._data.write(raw_bytes(piece))
            tensor.data_location = self.onnx.TensorProto.EXTERNAL
            for key, value in (("location", DATA), ("offset", str(start)), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
        self.initializers[name] = tensor
        return name

    def shared(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """The same bytes as another weight in another shape; they are stored once."""
        if name not in self.initializers:
            tensor = self.onnx.TensorProto()
            tensor.CopyFrom(self.initializers[of])
            tensor.name = name
            del tensor.dims[:]
            tensor.dims.extend(shape)
            self.initializers[name] = tensor
        return name

    def save(
        self,
        path: Path,
        inputs: Mapping[str, list[Any]],
        outputs: Mapping[str, list[Any]],
        tensors: Mapping[str, list[Any]] | None = None,
    ) -> None:
        """Write the graph with the weights it uses.

        Args:
            path: of the file.
            inputs: int64, with their shapes; texts are free dimensions.
            outputs: float32, in the order of the last nodes, which give them.
            tensors: float32 inputs that come after those.
        """
        for node, name in zip(self.nodes[-len(outputs) :], outputs, strict=True):
            node.output[0] = name
        used = {name for node in self.nodes for name in node.input}
        helper, types = self.onnx.helper, self.onnx.TensorProto
        graph = helper.make_graph(
            self.nodes,
            "tailorbird",
            [helper.make_tensor_value_info(name, types.INT64, shape) for name, shape in inputs.items()]
            + [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, shape in (tensors or {}).items()],
            [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, shape in outputs.items()],
            [tensor for name, tensor in self.initializers.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="tailorbird")
        path.write_bytes(model.SerializeToString(deterministic=True))
