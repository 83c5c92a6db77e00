"""`compress`: a trained model and a budget in, a packed and verified artifact out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tailorbird
from tailorbird.artifact import Artifact
from tailorbird.artifact.layout import Segment
from tailorbird.artifact.manifest import Manifest
from tailorbird.artifact.partial import Partial
from tailorbird.artifact.verify import close
from tailorbird.errors import TailorbirdError
from tailorbird.files import sha256, write_atomic, write_json
from tailorbird.kernels import dense
from tailorbird.measure.stream import Stream
from tailorbird.pipeline import recommender
from tailorbird.pipeline.allocation import measured_table
from tailorbird.pipeline.calibration import Calibration, Windows, calibration, original_rows, weighing
from tailorbird.pipeline.distilled import distilled
from tailorbird.pipeline.guided import guided
from tailorbird.pipeline.memory import give_back, keep_little
from tailorbird.pipeline.pieces import fit_piece
from tailorbird.pipeline.prepare import Prepared, fitted_first, prepare
from tailorbird.pipeline.progress import Progress, silent
from tailorbird.pipeline.refine import refined
from tailorbird.pipeline.turn import learned
from tailorbird.plan import Plan
from tailorbird.runtime.decoder import Cached
from tailorbird.score.guide import Guide
from tailorbird.tasks.windows import digest


@dataclass
class Result:
    """What a compression gave.

    Attributes:
        artifact: the verified artifact.
        facts: by part name: error, seconds, bytes.
        seconds: by stage.
        milliseconds: of one decoded token, where the budget names some; of the formats that were fitted, on its device,
            at the pace it had when it was profiled.
        slower: times that this machine was slower than that; None where it is not that device.
        divergence: from the original, of predictions held back, in nats: before the finished model learned from it and
            after every pass.
    """

    artifact: Artifact
    facts: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    milliseconds: float | None = None
    slower: float | None = None
    divergence: list[float] = field(default_factory=list)


@dense.fast()
def compress(
    model: str | Path | nn.Module,
    out: str | Path,
    *,
    method: str = "gptq",
    budget: str | Iterable[str] | None = None,
    data: str | Path | Sequence[Tensor] | None = None,
    samples: int = 64,
    length: int = 512,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    target: str | None = None,
    allocate: str | None = None,
    refine: int = 1,
    context: int = 0,
    cache: Cached = "bf16",
    profile: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
    before: Callable[[Prepared], object] = lambda job: None,
) -> Result:
    """Compress a model into a folder and verify what was written.

    Args:
        model: a folder, also of a recommender, a GGUF file, a Hub id, ``demo:gemma-270m``, or a torch module.
        out: folder of the artifact; it must not exist, unless a job is resumed.
        method, options: name of a registered method, and its options.
        budget: such as ``3bits`` or ``120MB`` or several; 4.5 bits without one and without a plan.
        data: calibration text (file or ``hub:`` name), None for the packaged text; input batches for a module.
        samples, length, seed: calibration windows, tokens of one, and the seed of every random choice.
        plan, target: an edited plan to apply; a runtime whose rules the plan obeys, so that exports change no weight.
        allocate, profile: who shares out bits, see `tailorbird.pipeline.asked.ALLOCATORS`; costs that ``ohq`` weighs.
        refine: how often at most that is done anew, by what the finished model really lost.
        context, cache: tokens whose keys and values a budget in bytes counts, and how these are kept.
        resume: go on with an unfinished job of the same options; a finished one is given back as it is.
        progress, before: told about every finished piece; the prepared job before its work begins, which it may refuse.

    Returns:
        The artifact and what was measured; the same arguments give the same digest on a machine, killed or not.

    Raises:
        TailorbirdError: see the subclasses; nothing that was there before is lost.
    """
    out = Path(out)
    keep_little()
    data = recommender.windows(model, plan.method if plan else method, data, samples, seed)
    job = prepare(model, method, budget, options, plan, target, allocate, context, cache, profile)
    before(job)
    data_in = calibration(job, data, samples, length, seed)
    windows = weighing(job, data, samples, length, seed) if job.undecided else None  # type: ignore[arg-type]
    partial = Partial(out, _identity(job, data_in, seed, windows, refine, profile), resume)
    clock: dict[str, float] = {}
    if not partial.named:
        job, weights = _fitted(job, data_in, windows, partial, refine, seed, progress, clock)
        _finish(job, partial, weights)
    if not partial.verified:
        with progress.stage("verify", clock):
            close(out)
    return _closed(job, partial, clock)


def _closed(job: Prepared, partial: Partial, clock: dict[str, float]) -> Result:
    """What a verified artifact's job gave."""
    partial.close(job.pieces)
    facts = {name: fact for piece in job.pieces for name, fact in partial.facts_of(piece).items()}
    artifact = Artifact.open(partial.out, digests=False)
    took = partial.timed
    job.check(artifact.nbytes, artifact.bits, "the artifact takes", took.get("milliseconds"))
    return Result(artifact, facts, clock, **took, divergence=partial.divergence)


def _identity(
    job: Prepared,
    data: Calibration,
    seed: int,
    windows: Windows | None,
    refine: int,
    profile: str | Path | None,
) -> dict[str, Any]:
    """Everything that decides the artifact's bytes."""
    source = job.checkpoint.digest() if job.checkpoint else job.model.fingerprint()
    plain = {
        "version": tailorbird.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": source,
        "plan": job.plan.to_json(),
        "data": data.digest,
        "seed": seed,
        "target": job.target,
    }
    if windows is None:
        return plain
    # The plan is still to be made, from these.
    budget = [str(getattr(job.budget, field.name)) for field in fields(job.budget)]
    if (named := profile or job.budget.profile) is not None:
        budget.append(sha256(Path(named)))
    weighed = [digest(windows.estimate), digest(windows.held_back)]
    return plain | {"allocate": job.allocate, "budget": [*budget, job.cached], "windows": weighed, "refine": refine}


def _fitted(
    job: Prepared,
    data: Calibration,
    windows: Windows | None,
    partial: Partial,
    refine: int,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
) -> tuple[Prepared, dict[str, str]]:
    """The job with its final plan, and the digests of the fitted weights."""
    fitted = partial.attempt("fitted") if job.method.distill else partial
    try:
        # Attempts share one rotation, and are compared with the model as it turned it.
        if job.method.rotate == "learned" and (windows is not None or not _complete(job, partial)):
            with progress.stage("rotate", clock), torch.no_grad():
                torch.manual_seed(0)
                job = learned(job, data, partial.folder / "work" / "states" / "rotate")
        wanted = job.method.guided and (windows is not None or not _complete(job, fitted))
        guide = guided(job, data, partial, seed, progress, clock) if wanted else {}

        def run(job: Prepared, into: Partial) -> dict[str, str]:
            return _run(job, data, into, seed, progress, clock, guide)

        if windows is None:
            weights = run(job, fitted)
        else:
            table = measured_table(job, windows, partial.facts / "score", seed, progress, clock)
            job, weights = refined(job, table, windows, fitted, run, refine, seed, progress, clock)
        if job.method.distill:
            weights = distilled(job, data, fitted, partial, seed, progress, clock)
        return job, weights
    except TailorbirdError:
        partial.abandon()
        raise


@torch.no_grad()
def _run(
    job: Prepared,
    data: Calibration,
    partial: Partial,
    seed: int,
    progress: Progress,
    clock: dict[str, float],
    guide: Guide,
) -> dict[str, str]:
    """Fit every piece that is not finished; returns the digests of the fitted weights."""
    torch.manual_seed(0)
    stream: Stream | None = None
    weights: dict[str, str] = {}
    measured = bool(job.method.needs) and not _complete(job, partial)
    progress.begin(len(job.pieces))
    pieces = _in_turn(job)
    for piece in pieces:
        if measured and stream is None and (piece.block is not None or not job.model.anatomy.blocks):
            stream = _stream(job, data, partial, guide)
        if stream is not None and piece.block is not None:
            with progress.stage("measure", clock):
                stream.aim(piece.block, measured=bool(piece.parts) and not partial.done(piece))
        if not partial.done(piece):
            seen = stream or (
                _behind(job, data, partial, progress, clock) if measured and fitted_first(piece) else None
            )
            fitted = fit_piece(job, piece, seen, seed, progress, clock, data.counted)
            planes = fitted.planes
            with progress.stage("pack", clock):
                partial.write(piece, planes, fitted.kept, fitted.facts)
            del fitted
        else:
            planes = partial.planes(piece) if stream is not None and piece.block is not None else {}
        if stream is not None and piece.block is not None:
            # The original weights go before the compressed ones come.
            job.model.drop(job.model.blocks[piece.block])
            if piece is not pieces[-1]:
                with progress.stage("measure", clock):
                    stream.advance(
                        piece.block, {name: p.dequantize() for name, p in planes.items()}, partial.kept(piece)
                    )
        weights |= {name: fact["digest"] for name, fact in partial.facts_of(piece).items()}
        give_back()
        progress.advance(piece.file)
    return weights


def _complete(job: Prepared, partial: Partial) -> bool:
    return all(partial.done(piece) for piece in job.pieces)


def _in_turn(job: Prepared) -> list[Segment]:
    """The pieces as they are fitted: a tied embedding first, so that the blocks make up for what it loses as they do
    for each other's errors."""
    return sorted(job.pieces, key=lambda piece: not (fitted_first(piece) and job.method.needs))


def _behind(job: Prepared, data: Calibration, partial: Partial, progress: Progress, clock: dict[str, float]) -> Stream:
    """Half of the calibration data behind the last block of the original."""
    with progress.stage("measure", clock):
        folder = partial.folder / "work" / "states" / "original"
        stream = Stream(job.model, data.batches[::2], original_rows(job, data), folder)
        for index in range(len(job.model.blocks)):
            stream.advance(index, {})
        return stream


def _stream(job: Prepared, data: Calibration, partial: Partial, guide: Guide) -> Stream:
    """Calibration data in front of the first block, through the compressed embedding where that is fitted first."""
    wanted, folder = job.method.measures, partial.folder / "work" / "states"
    reference = original_rows(job, data) if "reference" in wanted else None
    rows = _embedding(job, data, partial)
    return Stream(job.model, data.batches, rows, folder, reference, "drift" in wanted, guide)


def _embedding(job: Prepared, data: Calibration, partial: Partial) -> Callable[[Tensor], Tensor]:
    """Embedding rows by token id, compressed ones where these are fitted first."""
    name = job.model.anatomy.embedding
    for piece in job.pieces:
        if name in (part.name for part in piece.parts) and partial.done(piece):
            return partial.planes(piece)[name].gather
    return original_rows(job, data)


def _finish(job: Prepared, partial: Partial, weights: dict[str, str]) -> None:
    specs = {name: spec for piece in job.pieces for name, spec in partial.specs_of(piece).items()}
    for name, content in job.files.items():
        write_atomic(partial.folder / name, content)
    write_json(partial.folder / "plan.json", Plan(job.plan.method, job.plan.options, job.plan.parts, specs).to_json())
    partial.finish(Manifest.of(partial.folder, weights))
