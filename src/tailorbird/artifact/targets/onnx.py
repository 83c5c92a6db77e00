"""ONNX Runtime: one graph from token ids to logits, with packed weights in its own operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.artifact.folder import small_files, write_small_files
from tailorbird.artifact.forward import forward
from tailorbird.artifact.onnx.decoder import Decoder, check_family
from tailorbird.artifact.onnx.graph import DATA, MODEL, Graph, Nowhere
from tailorbird.artifact.onnx.weights import SMALLEST, Weights, packable, width
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.compare import Comparison
from tailorbird.artifact.targets.target import Check, Target, Told
from tailorbird.errors import ArtifactError, ModelError, UsageError, require
from tailorbird.formats import Spec, affine, plane_spec

PART = ".part.onnx"
TOKENS, WORDS = 16, 1024
# Earlier ones unpack tables of 4 bits wrongly (1.23 was tried).
_RUNTIME = (1, 31)
# What logits may differ by, as a share of their norm: float32 sums in another order, or activations in 8 bits.
_LOGITS = {1: 1e-3, 4: 0.1}


@dataclass(frozen=True, kw_only=True)
class ONNX(Target):
    """Codes of 2, 4 or 8 bits, groups of mixed bits by splitting the product; the table and a tied head stored once.

    Attributes:
        accuracy_level: 4 rounds the activations of products to 8 bits, which is fast; 1 keeps them float32.
    """

    name: ClassVar[str] = "onnx"
    extra: ClassVar[str] = "onnx"
    summary: ClassVar[str] = "a graph for ONNX Runtime; 2, 4 and 8 bits, others stored wider, groups mixed"

    accuracy_level: int = 4

    def __post_init__(self) -> None:
        """Refuse a level whose error is not stated."""
        if self.accuracy_level not in _LOGITS:
            raise UsageError(f"accuracy_level {self.accuracy_level}", hint="4 (8-bit activations) or 1 (float32)")

    def carried(self, part: Part, spec: Spec) -> Spec:
        """Groups of a multiple of 16 columns, with integer zero points or none."""
        cols = part.shape[1]
        if cols % SMALLEST:
            return spec  # stored as plain numbers
        planes = affine(spec)
        if planes.offset == "float":
            planes = replace(planes, offset="integer", column_order=False)
        if planes.group_size % SMALLEST:
            sizes = [size for size in range(SMALLEST, cols + 1, SMALLEST) if cols % size == 0]
            size = min(sizes, key=lambda size: abs(size - planes.group_size))
            planes = replace(planes, bits=(max(planes.bits),) * (cols // size), group_size=size, column_order=False)
        return planes

    def refuse(self, artifact: Artifact) -> None:
        """Families without a graph."""
        require("onnx", extra=self.extra)
        runtime = require("onnxruntime", extra=self.extra)
        if tuple(map(int, runtime.__version__.split(".")[:2])) < _RUNTIME:
            raise UsageError(
                f"onnxruntime {runtime.__version__} can't run these graphs",
                hint=f"install {'.'.join(map(str, _RUNTIME))} or newer; it needs Python 3.11",
            )
        if not artifact.config:
            raise ModelError(f"{artifact.folder} is not a language model", hint="export it with --to hf")
        check_family(Model.open(artifact))

    def write(self, artifact: Artifact, out: Path, told: Told) -> None:
        """Write model.onnx, its weights, the configuration and the tokenizer."""
        with (out / DATA).open("wb") as data:
            self._save(artifact, data, out / MODEL, told)
        write_small_files(artifact, out, torch.float32)

    def planned_bytes(self, artifact: Artifact) -> int:
        """Bytes of all files, from making the graph without keeping its weights."""
        with TemporaryDirectory(prefix="tailorbird-") as folder:
            data, path = Nowhere(), Path(folder) / MODEL
            self._save(artifact, data, path, lambda what, done, total: None)
            small = small_files(artifact, torch.float32).values()
            return data.tell() + path.stat().st_size + sum(map(len, small))

    def check(self, artifact: Artifact, out: Path) -> Check:
        """Let the runtime unpack every part, then compare the logits of a few tokens."""
        runtime = require("onnxruntime", extra=self.extra)
        found = Comparison(artifact, packed=[part.name for part in artifact.plan.parts if _packed(artifact, part)])
        for part in artifact.plan.parts:
            table = self._table(artifact, part, out)
            found.rows(part.tensor, lambda low, high, table=table: _rows(table, low, high))  # type: ignore[misc]
        # What is not packed stands in the graph as numbers of its own, and shows in the logits.
        found.seen = set(artifact.tensors)
        error = _logits_error(artifact, _session(runtime, out / MODEL))
        limit = _LOGITS[self.accuracy_level]
        if not error <= limit:
            raise ArtifactError(
                f"the graph's logits differ from ours by {error:.3g} of their norm, {limit} is allowed",
                hint="please report this",
            )
        checked = found.result(f"onnxruntime {runtime.__version__}", *_notes(artifact, self.accuracy_level, error))
        return replace(checked, parts=len(artifact.plan.parts), logits_error=error)

    def _save(self, artifact: Artifact, data: BinaryIO, path: Path, told: Told) -> None:
        """Stream the weights to `data` and write the graph."""
        model = Model.open(artifact)
        words = next(part for part in model.parts if part.role == "embedding").shape[0]
        graph = Graph(data)
        Decoder(graph, model, Weights(graph, artifact, self.accuracy_level), told).logits("input_ids")
        graph.save(path, {"input_ids": ["batch", "length"]}, {"logits": ["batch", "length", words]})

    def _table(self, artifact: Artifact, part: Part, out: Path) -> Any:
        """A session that gives rows of a part from the arrays of the written graph."""
        onnx = require("onnx", extra=self.extra)
        written = onnx.load(out / MODEL, load_external_data=False).graph.initializer
        graph = Graph(None, {tensor.name: tensor for tensor in written})
        Weights(graph, artifact, self.accuracy_level).rows("rows", part.name)
        path = out / PART
        graph.save(path, {"rows": ["count"]}, {"found": ["count", part.shape[1]]})
        try:
            return _session(require("onnxruntime", extra=self.extra), path)
        finally:
            path.unlink()


def _packed(artifact: Artifact, part: Part) -> bool:
    return packable(part.shape[1], artifact.plan.specs[part.name])


def _session(runtime: Any, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _rows(session: Any, low: int, high: int) -> Tensor:
    found: Tensor = torch.from_numpy(session.run(["found"], {"rows": torch.arange(low, high).numpy()})[0])
    return found


def _logits_error(artifact: Artifact, session: Any) -> float:
    """|L' - L| / |L| over a few tokens and the first words of the vocabulary."""
    model = Model.open(artifact)
    words = next(part for part in model.parts if part.role == "embedding").shape[0]
    ids = (torch.arange(TOKENS) * 37 % words)[None]
    want = forward(model, ids, WORDS)
    got = torch.from_numpy(session.run(["logits"], {"input_ids": ids.numpy()})[0][..., :WORDS])
    return float((got - want).norm() / want.norm())


def _notes(artifact: Artifact, level: int, error: float) -> Iterator[str]:
    parts = artifact.plan.parts
    how = "activations of products in 8 bits" if level == 4 else "float32 activations"
    yield f"logits differ from our float32 ones by {error:.2%} of their norm ({how})"
    yield "the graph has no key-value cache: every call computes all positions"
    packed = [plane_spec(artifact.plan.specs[part.name]) for part in parts if _packed(artifact, part)]
    if wider := sum(any(width(bits) > bits for bits in spec.bits) for spec in packed):
        yield f"{wider} parts have codes of other than 2, 4 or 8 bits, which are stored in the next wider"
    if plain := len(parts) - len(packed):
        yield f"{plain} parts whose rows are no multiple of {SMALLEST} columns are plain float32"
