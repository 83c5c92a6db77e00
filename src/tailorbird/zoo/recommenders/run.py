"""From a data set to a trained, tested recommender in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tailorbird.errors import UsageError
from tailorbird.files import unfinished
from tailorbird.method import read_options
from tailorbird.report import write_training
from tailorbird.tasks.sequences.dataset import Ints, Sequences
from tailorbird.tasks.sequences.metrics import Interval, summary
from tailorbird.tasks.sequences.ranking import full_ranking, sampled_ranking
from tailorbird.tasks.sequences.split import Split, by_time, last_events, leave_one_out
from tailorbird.zoo.recommenders import find, folder
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.training import State, train


def train_and_test(
    name: str,
    data: Sequences,
    split: str,
    out: Path,
    *,
    shape: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train a recommender, choose its epoch on validation, test it once, and save it with its figures.

    Args:
        name: of the recommender.
        data: all of it.
        split: ``leave-one-out``, ``time`` or ``last-COUNT``.
        out: folder of the trained model; it must not exist.
        shape, settings: fields of the kind's `Shape` and of `Settings`, as values or text.
        resume: go on with an interrupted training of the same options.
        told: called with every look at validation.

    Returns:
        What was written beside the weights: data digest, split, settings, log, test figures with intervals. The page
        ``report.html`` shows it.

    Raises:
        UsageError: unknown options, or `out` exists.
    """
    chosen = Settings(**read_options(Settings, name, settings or {}))
    torch.manual_seed(chosen.seed)
    kind = find(name)
    if chosen.loss not in kind.losses:
        raise UsageError(f"{name} can't be trained with loss={chosen.loss}", hint=f"one of: {', '.join(kind.losses)}")
    divided = divide(data, split)
    model = kind(kind.sizes(**kind.sizes_of(divided) | read_options(kind.sizes, name, shape or {})))
    work = unfinished(out, "training", resume=resume)
    about = {"data": {"name": data.name, "digest": data.digest, "split": split, "tied": data.tied}}
    job = folder.job_of(model, chosen, about)

    def keep(state: State) -> None:
        folder.checkpoint(work, state, job)
        told(state.log[-1])

    state = folder.resumed(work, model, chosen, job)
    train(state, divided, chosen, keep)
    found = _facts(model, divided, state, job)
    folder.save(out, model, data.titles, found)
    write_training(out, found | {"shape": job["shape"], "versions": {"tailorbird": version("tailorbird")}})
    folder.forget(work)
    return found


def divide(data: Sequences, split: str) -> Split:
    """A split by name.

    Raises:
        UsageError: there is none of that name.
    """
    count = split.removeprefix("last-")
    if split.startswith("last-") and count.isdecimal() and len(count) < 7:
        return last_events(data, int(count))
    if split not in ("leave-one-out", "time"):
        raise UsageError(f"there is no split {split!r}", hint="leave-one-out, time, or last-10")
    return by_time(data) if split == "time" else leave_one_out(data)


def figures(model: Recommender, split: Split, *, seen: bool = False, candidates: Ints | None = None) -> dict[str, Any]:
    """Test figures as plain data: by full ranking, with items of the history where they are `seen`; or among
    candidates, int64 (cases, n), and then every figure is named ``sampled``."""
    if candidates is None:
        ranks = full_ranking(split, model.score, seen=seen, timed=model.timed)
    else:
        ranks = sampled_ranking(split, model.score, candidates, timed=model.timed)
    prefix = "" if candidates is None else "sampled "
    plain = {
        f"{prefix}{name}": dataclasses.asdict(value) if isinstance(value, Interval) else value
        for name, value in summary(ranks, split).items()
    }
    return {"protocol": ranks.protocol, "cases": len(ranks.cases), "figures": plain}


def _facts(model: Recommender, split: Split, state: State, job: Mapping[str, Any]) -> dict[str, Any]:
    trained = int((split.train_end - split.data.offsets[:-1] - 1).clip(0).sum()) * state.epoch
    return {
        "model": model.name, **{key: job[key] for key in ("data", "settings", "torch", "threads")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": state.seconds, "cpu_seconds": state.log[-1]["cpu_seconds"],
        "samples_per_s": trained / max(state.seconds, 1e-9), "log": state.log, "test": figures(model, split),
    }  # fmt: skip
