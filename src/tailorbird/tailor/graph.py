"""A trunk and its head as ONNX nodes, the head's tensors as inputs: another patch needs no new session.

From histories, int64 (batch, length) padded with 0 on the left, to the states and the scores of every item, the pad's
first. The same arithmetic as `tailor.device`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from tailorbird.artifact.onnx.graph import Graph
from tailorbird.artifact.onnx.weights import Weights
from tailorbird.artifact.reader import Artifact
from tailorbird.errors import UsageError
from tailorbird.tailor.head import NAMES
from tailorbird.zoo.names import trained_name

_FAR = -3.4e38
_EPSILON = 1e-5
IDS, STATE, SCORES = "ids", "state", "scores"


class Layers(Protocol):
    """Where the numbers of a trunk stand in a graph."""

    def rows(self, ids: str, layer: str) -> str:
        """Rows of a layer's weight by index: (..., columns)."""
        ...

    def product(self, x: str, layer: str) -> str:
        """``x @ W.T`` of a layer, with its bias where it has one."""
        ...

    def tensor(self, name: str) -> str:
        """A tensor as it is."""
        ...


class Plain:
    """Layers as plain float32 numbers.

    Args:
        graph: where they go.
        tensors: by name.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor]) -> None:
        self.graph, self.tensors = graph, tensors

    def rows(self, ids: str, layer: str) -> str:
        """See `Layers`."""
        return self.graph.add("Gather", self.tensor(f"{layer}.weight"), ids, axis=0)

    def product(self, x: str, layer: str) -> str:
        """See `Layers`."""
        g = self.graph
        y = g.add("MatMul", x, g.add("Transpose", self.tensor(f"{layer}.weight"), perm=[1, 0]))
        return g.add("Add", y, self.tensor(f"{layer}.bias")) if f"{layer}.bias" in self.tensors else y

    def tensor(self, name: str) -> str:
        """See `Layers`."""
        return self.graph.constant(self.tensors[name], name)


class Stored:
    """Layers of a compressed trunk, packed where ONNX Runtime's operators hold them.

    Args:
        graph: where they go.
        artifact: where they come from.
        layers: of the trunk.
    """

    def __init__(self, graph: Graph, artifact: Artifact, layers: int) -> None:
        self.graph, self.artifact = graph, artifact
        self.weights = Weights(graph, artifact, accuracy=1)
        self.names = {trained_name(name, layers): name for name in artifact.tensors}

    def rows(self, ids: str, layer: str) -> str:
        """See `Layers`."""
        return self.weights.rows(ids, self._part(layer))

    def product(self, x: str, layer: str) -> str:
        """See `Layers`."""
        return self.weights.product(x, self._part(layer))

    def tensor(self, name: str) -> str:
        """See `Layers`; a packed one is unpacked when the graph runs."""
        stored = self.names[name]
        if (part := self.weights.parts.get(stored.removesuffix(".weight"))) is not None and stored == part.tensor:
            return self.weights.rows(self.graph.constant(torch.arange(part.shape[0])), part.name)
        return self.graph.constant(self.artifact.read(stored).float(), stored)

    def _part(self, layer: str) -> str:
        return self.names[f"{layer}.weight"].removesuffix(".weight")


def draw(graph: Graph, layers: Layers, name: str, shape: Mapping[str, Any]) -> None:
    """All nodes of a trunk, its head and its scores; the last two are the state and the scores.

    Args:
        graph: an empty one, with inputs called `IDS` and as the tensors of the head.
        layers: of the trunk.
        name: of the recommender.
        shape: its sizes.

    Raises:
        UsageError: there is no graph for such a recommender.
    """
    if name not in _STATES:
        raise UsageError(f"there is no graph for a {name!r}", hint=f"there are graphs for: {', '.join(_STATES)}")
    state = _STATES[name](graph, layers, shape)
    inner = graph.add("Gemm", state, NAMES[0], NAMES[1], transB=1)
    moved = graph.add("Gemm", graph.add("Tanh", inner), NAMES[2], NAMES[3], transB=1)
    scores = layers.product(graph.add("Add", state, moved), "items")
    graph.add("Identity", state)
    graph.add("Identity", scores)


def _sasrec(g: Graph, layers: Layers, shape: Mapping[str, Any]) -> str:
    width = int(shape["width"])
    size = g.add("Shape", IDS, start=1, end=2)
    length, zero, one = g.add("Squeeze", size), _scalar(g, 0), _scalar(g, 1)
    back = g.add("Sub", g.add("Sub", length, one), g.add("Range", zero, length, one))
    x = g.add("Mul", layers.rows(IDS, "items"), g.constant(math.sqrt(width)))
    x = g.add("Add", x, g.add("Gather", layers.tensor("positions.weight"), back, axis=0))
    hidden = _hidden(g, g.add("Range", zero, length, one))
    for layer in range(int(shape["layers"])):
        x = _block(g, layers, f"blocks.{layer}.", x, hidden, shape)
    last = g.add("Gather", x, _scalar(g, -1), axis=1)
    return _norm(g, layers, last, "norm")


def _hidden(g: Graph, places: str) -> str:
    """What is added to every weight of an attention: nothing where an event is seen, else so little that nothing stays;
    (batch, 1, length, length)."""
    rows, columns = (g.add("Unsqueeze", places, g.constant([axis])) for axis in (1, 0))
    events = g.add("Unsqueeze", g.add("Greater", IDS, _scalar(g, 0)), g.constant([1, 2]))
    earlier = g.add("GreaterOrEqual", rows, columns)
    seen = g.add("And", g.add("Or", events, g.add("Equal", rows, columns)), earlier)
    return g.add("Where", seen, g.constant(0.0), g.constant(_FAR))


def _block(g: Graph, layers: Layers, path: str, x: str, hidden: str, shape: Mapping[str, Any]) -> str:
    width, heads = int(shape["width"]), int(shape["heads"])
    split = g.add("Split", layers.product(_norm(g, layers, x, f"{path}before"), f"{path}qkv"), num_outputs=3, axis=-1)
    g.nodes[-1].output[:] = [split, *(f"{split}.{i}" for i in (1, 2))]
    parted = g.constant([0, 0, heads, width // heads])
    q, k, v = (g.add("Reshape", name, parted) for name in (split, f"{split}.1", f"{split}.2"))
    q, v = (g.add("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
    product = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 3, 1]))
    scaled = g.add("Mul", product, g.constant(1 / math.sqrt(width // heads)))
    looked = g.add("MatMul", g.add("Softmax", g.add("Add", scaled, hidden), axis=-1), v)
    joined = g.add("Reshape", g.add("Transpose", looked, perm=[0, 2, 1, 3]), g.constant([0, 0, width]))
    x = g.add("Add", x, layers.product(joined, f"{path}out"))
    inner = g.add("Relu", layers.product(_norm(g, layers, x, f"{path}between"), f"{path}up"))
    return g.add("Add", x, layers.product(inner, f"{path}down"))


def _gru4rec(g: Graph, layers: Layers, shape: Mapping[str, Any]) -> str:
    """Pads are moved behind the events, where each history says how many it has."""
    pads = g.add("ReduceSum", g.add("Cast", g.add("Equal", IDS, _scalar(g, 0)), to=7), g.constant([1]), keepdims=1)
    length = g.add("Squeeze", g.add("Shape", IDS, start=1, end=2))
    places = g.add("Range", _scalar(g, 0), length, _scalar(g, 1))
    turned = g.add("Mod", g.add("Add", places, pads), length)
    counts = g.add("Max", g.add("Sub", length, g.add("Squeeze", pads, g.constant([1]))), _scalar(g, 1))
    counts = g.add("Cast", counts, to=6)
    x = g.add("Transpose", layers.rows(g.add("GatherElements", IDS, turned, axis=1), "items"), perm=[1, 0, 2])
    deepest = int(shape["layers"]) - 1
    for layer in range(deepest + 1):
        weights = [_gates(g, layers, f"gru.weight_{kind}_l{layer}") for kind in ("ih", "hh")]
        biases = [_gates(g, layers, f"gru.bias_{kind}_l{layer}") for kind in ("ih", "hh")]
        bias = g.add("Concat", *biases, axis=1)
        last = layer == deepest  # of which only the state after each history's last event is wanted
        x = g.add(
            "GRU",
            x,
            *weights,
            bias,
            counts,
            place=int(last),
            hidden_size=2 * int(shape["width"]),
            linear_before_reset=1,
        )
        x = g.add("Squeeze", x, g.constant([0 if last else 1]))
    return layers.product(x, "out")


def _gates(g: Graph, layers: Layers, name: str) -> str:
    """torch has reset, update, new; ONNX update, reset, new; and one direction in front."""
    split = g.add("Split", layers.tensor(name), num_outputs=3, axis=0)
    names = [split, f"{split}.1", f"{split}.2"]
    g.nodes[-1].output[:] = names
    return g.add("Unsqueeze", g.add("Concat", names[1], names[0], names[2], axis=0), g.constant([0]))


_STATES = {"sasrec": _sasrec, "gru4rec": _gru4rec}


def _norm(g: Graph, layers: Layers, x: str, name: str) -> str:
    pair = layers.tensor(f"{name}.weight"), layers.tensor(f"{name}.bias")
    return g.add("LayerNormalization", x, *pair, axis=-1, epsilon=_EPSILON)


def _scalar(g: Graph, value: int) -> str:
    return g.constant(torch.tensor(value, dtype=torch.int64))
