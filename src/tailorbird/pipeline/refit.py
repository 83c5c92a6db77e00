"""A GGUF file from the original's weights: fitted with error feedback into the types an artifact's parts would get.

As in `compress`, blocks are met in order and their inputs come from the already fitted prefix. The artifact gives
the plan, the tensors kept as they are, and the tokenizer; parts that a type holds bit for bit stay the artifact's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact import targets
from tailorbird.artifact.export import Exported, afford, export
from tailorbird.artifact.folder import Told
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.gguf import GGUF
from tailorbird.artifact.targets.gguf_blocks import BlockArtifact
from tailorbird.errors import ArtifactError, UsageError
from tailorbird.fit.ggml import fit_ggml
from tailorbird.formats import affine, ggml
from tailorbird.formats.ggml import BlockType
from tailorbird.formats.safetensors_header import TensorInfo, read_header
from tailorbird.formats.safetensors_write import write
from tailorbird.measure.statistics import Stats
from tailorbird.measure.stream import Stream
from tailorbird.pipeline.calibration import calibration, original_rows
from tailorbird.pipeline.memory import give_back
from tailorbird.pipeline.pieces import statistics
from tailorbird.pipeline.prepare import prepare

_DAMP = 0.01
_NAME = "blocks"
Blocks = dict[str, tuple[BlockType, TensorInfo]]


def export_refitted(
    artifact: str | Path,
    out: str | Path,
    to: str,
    original: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    samples: int = 64,
    length: int = 512,
    seed: int = 0,
    budget: str | None = None,
    told: Told = lambda what, done, total: None,
) -> Exported:
    """`export` to GGUF with the original's weights in place of the artifact's.

    Args:
        artifact: the folder of an artifact of that model.
        out: the folder to make.
        to: ``gguf``.
        original: the model the artifact was made from.
        options: of the target.
        data: calibration text, a file or ``hub:`` name; None for the packaged text.
        samples: calibration windows.
        length: tokens of a window.
        seed: of their choice.
        budget: bytes the file may take, such as ``150MB``.
        told: told about the progress.

    Raises:
        UsageError: another target, or `out` exists, or the artifact is of another model.
        BudgetError: the file would take more than the budget; no weight was touched.
    """
    target = targets.find(to, **dict(options or {}))
    if type(target) is not GGUF:
        raise UsageError(f"the target {to!r} has no types to fit the original into", hint="take --to gguf")
    if Path(out).exists():
        raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
    opened = Artifact.open(artifact)
    target.refuse(opened)
    afford(target, opened, budget)
    with TemporaryDirectory(prefix="tailorbird-") as scratch:
        windows = {"data": data, "samples": samples, "length": length, "seed": seed}
        blocks = _fitted(opened, original, target, Path(scratch), windows, told)
        return export(BlockArtifact.of(opened, blocks), out, to, options=options, told=told)


@torch.no_grad()
def _fitted(
    artifact: Artifact,
    original: str | Path,
    target: GGUF,
    scratch: Path,
    windows: Mapping[str, Any],
    told: Told,
) -> Blocks:
    # Only the parts are used: what they are fitted into are block types.
    specs = {name: affine(spec) for name, spec in artifact.plan.specs.items()}
    job = prepare(original, plan=replace(artifact.plan, method="gptq", options=_rotation(artifact), specs=specs))
    _check_kept(artifact, job.kept)
    batches = calibration(job, **windows)
    stream: Stream | None = None
    found: Blocks = {}
    for done, piece in enumerate(job.pieces):
        told("fitting", done, len(job.pieces))
        if stream is None and piece.block is not None:
            stream = Stream(job.model, batches.batches, original_rows(job, batches), scratch / "states")
        stats = statistics(job, piece, stream)
        for part in piece.parts:
            choice = target.choice(artifact, part)
            if choice.kind and not choice.exact:
                blocks = _fit(job.model.weight(part), choice.kind, stats.pop(part.name, Stats()))
                found[part.name] = _stored(blocks, choice.kind, scratch / f"{len(found)}.safetensors")
            job.model.drop(part.name)
        if stream is not None and piece.block is not None:
            job.model.drop(job.model.blocks[piece.block])
            stream.advance(piece.block, {part.name: _values(artifact, found, part) for part in piece.parts})
        give_back()
    return found


def _rotation(artifact: Artifact) -> dict[str, Any]:
    """The options by which the original was rotated before it was fitted."""
    options = {name: value for name, value in artifact.plan.options.items() if name.startswith("rotate")}
    if options.get("rotate") == "learned":
        raise UsageError(
            "the artifact's rotation was learned and is not kept, so that the original can't be rotated alike",
            hint="export without the original's weights, or compress with rotate=hadamard",
        )
    return options


def _check_kept(artifact: Artifact, kept: Mapping[str, Tensor]) -> None:
    """Raise UsageError where a method changed norms and the weights beside them together."""
    for name, tensor in kept.items():
        if not torch.equal(artifact.read(name), tensor):
            raise UsageError(
                f"{artifact.folder}: {name} is not the original's: the method changed it together with the weights",
                hint="export the artifact as it is, without fitting the original anew",
            )


def _fit(weight: Tensor, kind: BlockType, stats: Stats) -> Tensor:
    """Blocks of one part; rows of an embedding that has no inputs are encoded one by one."""
    if stats.gram is None:
        return ggml.encode(weight, kind)
    upper, dead = stats.factor(_DAMP)
    weight[:, dead] = 0
    return fit_ggml(weight, kind, upper)


def _stored(blocks: Tensor, kind: BlockType, path: Path) -> tuple[BlockType, TensorInfo]:
    write(path, {_NAME: blocks})
    return kind, read_header(path, error=ArtifactError)[_NAME]


def _values(artifact: Artifact, blocks: Blocks, part: Part) -> Tensor:
    return BlockArtifact.of(artifact, blocks).read(part.tensor)
