"""A trunk and its head for onnxruntime and for the browser, checked against the device's own runtime before the folder
gets its name.

`model.onnx` takes histories and the tensors of the head, so that a patch needs no new session. `golden.json` holds
histories, a patch and the scores the device's runtime gives: whoever runs the graph elsewhere can see that it is right.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailorbird.artifact.onnx.graph import EXTRA, MODEL, Graph
from tailorbird.artifact.reader import Artifact
from tailorbird.errors import ArtifactError, UsageError, require
from tailorbird.files import atomic_folder, read_json, write_atomic, write_json
from tailorbird.formats.safetensors_write import write
from tailorbird.tailor.device import PERSONAL, Device, load
from tailorbird.tailor.graph import IDS, SCORES, STATE, Layers, Plain, Stored, draw
from tailorbird.tailor.head import NAMES, shapes
from tailorbird.tailor.patch import NEEDS, Kind, Patch, full, layout
from tailorbird.tailor.trunk import compressed
from tailorbird.tailor.unpack import CONFIG, MANIFEST
from tailorbird.tailor.wire import encode
from tailorbird.tasks.sequences.dataset import Ints

WEB = "1.30.0"  # of onnxruntime-web, whose results are tested
GOLDEN = "golden.json"
_PAGE = Path(__file__).parent / "web"
_LIMIT = 2**31 - 2**20  # of a graph in one file
TOLERANCE = 1e-4  # of a score, as a share of the largest
_SOME = 32  # items


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        nbytes: of the graph.
        personal: names of the inputs that a patch changes.
        runtime: what it was checked with.
        error: the largest difference of a score from the device's, as a share of the largest score.
    """

    nbytes: int
    personal: tuple[str, ...]
    runtime: str
    error: float


def export(source: Path, out: Path) -> Exported:
    """Write a recommender, tailored or not, as a graph with what a page needs to run it.

    Args:
        source: folder of a trained recommender or of a tailored one.
        out: a folder that does not exist.

    Raises:
        UsageError: `out` exists, or there is no graph for this recommender.
        ArtifactError: the folder is damaged, or the graph gives other scores than the device's runtime.
        MissingExtra: onnx or onnxruntime is missing.
    """
    require("onnx", extra=EXTRA)
    runtime = require("onnxruntime", extra=EXTRA)
    if out.exists():
        raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
    device, about = load(source), read_json(source / CONFIG, limit=2**28)
    with atomic_folder(out) as aside:
        _draw(device, compressed(source), aside / MODEL)
        _beside(device, about, aside)
        error = _check(device, aside / MODEL, runtime)
        nbytes = (aside / MODEL).stat().st_size
    return Exported(nbytes, NAMES, f"onnxruntime {metadata.version('onnxruntime')}", error)


def golden(device: Device) -> dict[str, Any]:
    """Histories, a patch, and scores of some items without it and with it; the device is left without a patch."""
    items, random = int(device.shape["items"]), np.random.default_rng(0)
    histories = [random.integers(1, items + 1, count).tolist() for count in (0, 1, 5, int(device.shape["length"]) + 3)]
    message = encode(_some(device, random), device.trunk, device.manifest, tolerance=0.01)
    cases = []
    for patched in (False, True):
        device.tensors = device.trunk
        if patched:
            device.take(message)
        cases += [{"patched": patched, "history": history} | _scored(device, history) for history in histories]
    device.tensors = device.trunk
    return {"tolerance": TOLERANCE, "patch": base64.b64encode(message).decode(), "cases": cases}


def _some(device: Device, random: np.random.Generator) -> Patch:
    """A patch of a kind that the manifest allows: new values, else bits, else steps from the first prototype."""
    manifest = device.manifest
    actions = {action for entry in manifest.tensors for action in entry.actions}
    if "replace" in actions:
        head = {name: (0.3 * random.standard_normal(s)).astype(np.float32) for name, s in _sizes(device).items()}
        if sum(value.size + 2 * len(value) + 64 for value in head.values()) > manifest.max_bytes:
            head = {name: value for name, value in head.items() if value.ndim == 1}  # no message would hold the whole
        return full(head, manifest)
    kind: Kind = "mask" if "mask" in actions else "prototype"
    body = {
        entry.name: tuple(
            random.integers(0, 100, shape).astype(dtype) for dtype, shape in layout(kind, "float32", entry, 0)
        )
        for entry in manifest.tensors if NEEDS[kind] in entry.actions
    }  # fmt: skip
    return Patch(manifest.trunk, kind, body, prototype=min(1, manifest.prototypes))


def _scored(device: Device, history: Sequence[int]) -> dict[str, Any]:
    """The best items and some others, with their scores, and the largest of all."""
    scores = device.scores(list(history))
    spread = np.linspace(0, len(scores) - 1, _SOME).astype(int)
    some = np.unique(np.concatenate([np.argsort(-scores, kind="stable")[:_SOME], spread]))
    largest = float(np.abs(scores).max())
    return {"items": some.tolist(), "scores": [float(score) for score in scores[some]], "largest": largest}


def _sizes(device: Device) -> dict[str, tuple[int, ...]]:
    return shapes(int(device.shape["width"]))


def _draw(device: Device, packed: Path | None, path: Path) -> None:
    graph = Graph(None)
    layers: Layers
    if packed is not None:
        layers = Stored(graph, Artifact.open(packed), int(device.shape["layers"]))
    else:
        tensors = {name: torch.from_numpy(value) for name, value in device.trunk.items()}
        tensors["items.weight"] = tensors["items.weight"][: int(device.shape["items"]) + 1]
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _LIMIT:
            raise UsageError("a graph in one file holds 2 GB at most", hint="compress the trunk first")
        layers = Plain(graph, tensors)
    draw(graph, layers, device.name, device.shape)
    personal = {name: list(shape) for name, shape in _sizes(device).items()}
    width, items = int(device.shape["width"]), int(device.shape["items"])
    outputs: dict[str, list[Any]] = {STATE: ["batch", width], SCORES: ["batch", items + 1]}
    graph.save(path, {IDS: ["batch", "length"]}, outputs, personal)


def _beside(device: Device, about: dict[str, Any], out: Path) -> None:
    """Everything but the graph."""
    kept = {key: about[key] for key in ("version", "name", "shape", "titles")}
    write_json(out / CONFIG, kept | {"manifest": device.manifest.digest})
    write_json(out / MANIFEST, device.manifest.to_json())
    write_json(out / GOLDEN, golden(device))
    names = {entry.name for entry in device.manifest.tensors}
    personal = {n: torch.from_numpy(v) for n, v in device.trunk.items() if n in names or n.startswith("prototype.")}
    write(out / PERSONAL, personal)
    write_json(out / "package.json", {"private": True, "dependencies": {"onnxruntime-web": WEB}})
    for path in sorted(_PAGE.iterdir()):
        write_atomic(out / path.name, path.read_bytes())


def _check(device: Device, path: Path, runtime: Any) -> float:
    """Run the graph on the golden histories, all scores of each, and in one batch too."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    cases = golden(device)
    worst = 0.0
    for patched in (False, True):
        device.tensors = device.trunk
        if patched:
            device.take(base64.b64decode(cases["patch"]))
        histories = [case["history"] for case in cases["cases"] if case["patched"] == patched]
        found = session.run([SCORES], {IDS: padded(device, histories)} | {n: device.tensors[n] for n in NAMES})[0]
        for history, scores in zip(histories, found, strict=True):
            wanted = device.scores(history)
            worst = max(worst, float(np.abs(scores - wanted).max() / np.abs(wanted).max()))
    device.tensors = device.trunk
    if not worst <= TOLERANCE:
        raise ArtifactError(f"the graph's scores differ by {worst:.2g} from the device's", hint="please report this")
    return worst


def padded(device: Device, histories: Sequence[Sequence[int]]) -> Ints:
    """The latest events of histories as the graph wants them: int64 (batch, length), padded with 0 on the left."""
    length = max(1, min(int(device.shape["length"]), max(map(len, histories))))
    out = np.zeros((len(histories), length), np.int64)
    for row, history in zip(out, histories, strict=True):
        kept = list(history)[-length:]
        row[length - len(kept) :] = kept
    return out


def described(done: Exported) -> dict[str, Any]:
    """Plain data."""
    return dataclasses.asdict(done)
