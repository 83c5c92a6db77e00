"""From a trained trunk to a tailored model in a folder, tested once against the trunk as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tailorbird.errors import UsageError
from tailorbird.files import unfinished
from tailorbird.method import read_options
from tailorbird.report import write_tailoring
from tailorbird.tailor import folder
from tailorbird.tailor import trunk as trunks
from tailorbird.tailor.detect import check, with_detector
from tailorbird.tailor.head import NAMES, room, unrolled
from tailorbird.tailor.learn import Settings, Told, heads_for, scorer
from tailorbird.tailor.manifest import digest_of, model_digest
from tailorbird.tailor.systems import System, find
from tailorbird.tailor.work import Work
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import groups, hit, interval, ndcg, paired, per_user
from tailorbird.tasks.sequences.ranking import Ranks, Scorer, full_ranking
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.din import DIN
from tailorbird.zoo.recommenders.folder import forget
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.run import divide

TRUNKS = ("sasrec", "gru4rec", "din")
SLACK = 2.0  # a bound over the largest number that occurs in heads of the validation stage
SOME = 512  # cases to look for it


def tailor_and_test(
    trunk_folder: Path,
    data: Sequences,
    out: Path,
    settings: Mapping[str, Any] | None = None,
    told: Told = lambda row: None,
    *,
    system: str = "duet",
    budget: float | None = None,
    detector: str = "intellectreq",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a system for a trunk, choose its epochs on validation, test it once beside the trunk, and save it.

    Args:
        trunk_folder: of a trained recommender, compressed or not.
        data: what it was trained on.
        out: a folder that does not exist.
        settings: fields of `Settings` and options of the system, as values or text.
        told: called after every epoch.
        system: name of one of `systems.SYSTEMS`.
        budget: train a detector too, that asks at about this share of events.
        detector: one of `intellectreq.FORMS`.
        resume: go on with an interrupted training of the same options; the result is the same.

    Returns:
        What was written beside the weights: log, payload, figures of both with intervals, and whether they differ.

    Raises:
        UsageError: other data than the trunk's, an unknown system or setting, `out` exists, or there is an unfinished
            training and none was to be resumed; or a trunk so wide that no message holds its head.
        UsageError, DataError: of a detector, see `detect.check`.
    """
    way, chosen = _chosen(system, settings or {})
    work = unfinished(out, "training", resume=resume)
    trunk, about = trunks.read(trunk_folder)
    _check_trunk(trunk)
    split = split_of(about, data)
    if budget is not None:
        check(budget, detector, split, trunk)
    job = {
        "trunk": digest_of(folder.tensors_of(trunk)), "data": about["data"], "system": way.name,
        "options": dataclasses.asdict(way), "settings": dataclasses.asdict(chosen),
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    states = Work(work, job)
    maker = way.train(trunk, split, chosen, told, states).requires_grad_(False)
    log = [row | {"stage": stage} for stage, rows in states.logs.items() for row in rows]
    tailored = finished(way, trunk, maker, split, chosen.window, about)
    payload = len(tailored.message(split.history(int(split.test.user[0]), int(split.test.at[0]))))
    facts = {"log": log, "payload": payload, "test": figures(trunk, maker, split, chosen.window, way.name)}
    if budget is not None:
        tailored, facts["detector"] = with_detector(tailored, split, budget, detector)
    folder.save(out, trunk_folder, tailored, chosen, facts)
    kept = {"system": way.name, "data": about["data"], "settings": job["settings"]}
    shown = {"model": trunk.name, "options": job["options"], "versions": {"tailorbird": version("tailorbird")}}
    write_tailoring(out, kept | {key: job[key] for key in ("torch", "threads")} | shown | facts)
    forget(work)
    return {"trunk": trunk.name} | kept | facts


def _check_trunk(trunk: Recommender) -> None:
    """It has a state that a head can take, and its head a message."""
    if trunk.name not in TRUNKS or (isinstance(trunk, DIN) and trunk.shape.form == "published"):
        raise UsageError(f"this {trunk.name} has no state that a head can take", hint=f"train {' or '.join(TRUNKS)}")
    room(trunk.shape.width)  # a message that nothing could carry is told before hours of training


def _chosen(system: str, settings: Mapping[str, Any]) -> tuple[System, Settings]:
    """The system with its options, and the settings of its training."""
    kind = find(system)
    own = {field.name for field in dataclasses.fields(kind)}
    options = read_options(kind, system, {k: v for k, v in settings.items() if k in own})
    return kind(**options), Settings(
        **read_options(Settings, system, {k: v for k, v in settings.items() if k not in own})
    )


def split_of(about: Mapping[str, Any], data: Sequences) -> Split:
    """The split a trunk was trained on.

    Raises:
        UsageError: the data are not those.
    """
    if about["data"]["digest"] != data.digest:
        raise UsageError(f"the trunk was trained on other events than these of {data.name!r}", hint="train it again")
    return divide(data, str(about["data"]["split"]))


def finished(
    way: System, trunk: Recommender, maker: nn.Module, split: Split, window: int, about: Mapping[str, Any]
) -> folder.Tailored:
    """A trained maker with a manifest whose bounds are `SLACK` times what heads of validation cases reach."""
    cases = split.validation
    some = np.random.default_rng(0).permutation(len(cases))[:SOME]
    histories = [split.history(int(cases.user[i]), int(cases.at[i])) for i in some]
    heads, stored = heads_for(trunk, maker, histories, window), way.personal(maker)
    personal = unrolled(stored)
    bounds = {}
    for name in NAMES:
        own = [float(np.abs(value).max()) for key, value in personal.items() if key.endswith(name)]
        bounds[name] = max(1.0, SLACK * max(float(heads[name].abs().max()), *own, 0.0)) + way.bounds()["clip"]
    model = model_digest(trunk.name, about["shape"])
    manifest = way.manifest(folder.tensors_of(trunk) | personal, bounds, model)
    return folder.Tailored(trunk, way, maker, manifest, window, about, stored)


def figures(trunk: Recommender, maker: nn.Module, split: Split, window: int, name: str) -> dict[str, Any]:
    """NDCG@10 and HR@10 on the test, trunk and fresh heads, full ranking; a user counts once. Tail and head users
    apart."""
    scorers = {"trunk": trunk.score, name: scorer(trunk, maker, window)}
    ranks = {key: full_ranking(split, score) for key, score in scorers.items()}
    trunks = ranks["trunk"]
    apart = {
        group: {"users": len(np.unique(trunks.cases.user[mine]))} | differing(ranks, mine)
        for group, mine in groups(trunks, split).items()
    }
    return {"protocol": trunks.protocol, "groups": apart} | differing(ranks)


def compared(scorers: Mapping[str, Scorer], split: Split) -> dict[str, Any]:
    """`differing` of two on the test, full ranking."""
    return differing({key: full_ranking(split, score) for key, score in scorers.items()})


def differing(ranks: Mapping[str, Ranks], mine: Any = slice(None)) -> dict[str, Any]:
    """NDCG@10 and HR@10 of two, of all cases or of some, and whether the second differs from the first."""
    found: dict[str, Any] = {}
    for name, figure in (("ndcg@10", ndcg), ("hr@10", hit)):
        users = {key: per_user(figure(each.ranks[mine], 10), each.cases.user[mine]) for key, each in ranks.items()}
        first, second = users
        found[name] = {key: dataclasses.asdict(interval(values)) for key, values in users.items()}
        found[name]["p"] = paired(users[second], users[first])
    return found
