"""``tailorbird compress`` on a recommender: the same job, judged by what it recommends."""

from __future__ import annotations

from typing import Any

from tailorbird.cli.job import Job, resume_note
from tailorbird.cli.session import Session


def compressed(job: Job, this: Session) -> bool:
    """Compress a recommender and rank the test with both; false where the model is none."""
    from tailorbird.cli.progress import drawn
    from tailorbird.pipeline import compress
    from tailorbird.pipeline.recommender import is_folder

    if not is_folder(job.model):
        return False
    this.interrupted = lambda: resume_note(job.out, this.args)
    with drawn() as bar:
        result = compress(
            job.model, job.out, method=job.method, budget=job.budget, data=job.data, samples=job.samples,
            seed=job.seed, options=job.options, plan=job.plan, allocate=job.allocate, resume=job.resume, progress=bar,
        )  # fmt: skip
    artifact = result.artifact
    weights = round(artifact.bits * artifact.plan.numel / 8)
    found: dict[str, Any] = {
        "out": str(job.out), "bytes": artifact.nbytes, "weight_bytes": weights, "bits": artifact.bits,
        "digest": artifact.digest, "quality": _judged(job) if job.evaluate else None,
    }  # fmt: skip
    if this.json:
        this.emit(found)
        return True
    this.line(
        f"{job.out}: {weights:,} bytes of weights, {artifact.bits:.3f} bits each; {artifact.nbytes:,} in all files"
    )
    for name, figure in (found["quality"] or {}).items():
        texts = (
            f"{w} {figure[w]['mean']:.4f} [{figure[w]['low']:.4f}, {figure[w]['high']:.4f}]" for w in figure if w != "p"
        )
        this.line(f"  {name:8} {', '.join(texts)}, p {figure['p']:.4f}")
    return True


def _judged(job: Job) -> dict[str, Any]:
    """Figures of the original and the compressed on the test."""
    from pathlib import Path

    from tailorbird.cli.session import say
    from tailorbird.tailor.run import compared, split_of
    from tailorbird.tailor.trunk import read
    from tailorbird.tasks.sequences import store

    say("ranking the test with both")
    (original, about), (packed, _) = read(Path(job.model)), read(job.out)
    split = split_of(about, store.load(about["data"]["name"]))
    return compared({"original": original.score, "compressed": packed.score}, split)
