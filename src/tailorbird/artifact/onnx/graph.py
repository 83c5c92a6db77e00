"""An ONNX graph under construction: nodes in memory, weights streamed to one file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

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


class Graph:
    """Nodes and weights of a graph; `data` is the file that takes the weights."""

    def __init__(self, folder: Path) -> None:
        self.onnx: ModuleType = require("onnx", extra=EXTRA)
        self.folder = folder
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._data = (folder / DATA).open("wb")
        self._spans: dict[str, tuple[int, int]] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output, whose name is given back."""
        name = f"{operator}_{len(self.nodes)}"
        make = self.onnx.helper.make_node
        self.nodes.append(make(operator, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: Tensor | float | list[int], name: str = "") -> str:
        """A tensor, a float32 number, or int64 numbers; equal names mean equal tensors."""
        if isinstance(value, Tensor):
            tensor = value
        else:
            tensor = torch.tensor(value, dtype=torch.int64 if isinstance(value, list) else torch.float32)
        name = name or f"constant_{len(self.initializers)}"
        if name not in self.initializers:
            self.stream(name, tuple(tensor.shape), tensor.dtype, [tensor])
        return name

    def stream(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, pieces: Iterable[Tensor]) -> str:
        """A weight that comes in consecutive pieces."""
        size = math.prod(shape) * dtype.itemsize
        tensor = self.onnx.TensorProto(name=name, dims=shape, data_type=getattr(self.onnx.TensorProto, _TYPES[dtype]))
        if size <= _INLINE:
            tensor.raw_data = b"".join(bytes(raw_bytes(piece)) for piece in pieces)
        else:
            self._data.write(b"\0" * (-self._data.tell() % _ALIGN))
            start = self._data.tell()
            for piece in pieces:
                self._data.write(raw_bytes(piece))
            self._place(tensor, start, size)
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

    def save(self, path: Path, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> None:
        """Write the graph; `inputs` are int64, `outputs` float32, with their shapes (texts are free dimensions)."""
        self._data.flush()
        used = {name for node in self.nodes for name in node.input}
        helper, types = self.onnx.helper, self.onnx.TensorProto
        graph = helper.make_graph(
            self.nodes,
            "tailorbird",
            [helper.make_tensor_value_info(name, types.INT64, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, shape in outputs.items()],
            [tensor for name, tensor in self.initializers.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="tailorbird")
        path.write_bytes(model.SerializeToString(deterministic=True))

    def close(self) -> None:
        """Let go of the file of weights."""
        self._data.close()

    def _place(self, tensor: Any, start: int, size: int) -> None:
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", str(start)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
