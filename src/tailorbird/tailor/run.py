"""From a trained trunk to a tailored model in a folder, tested once against the trunk as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailorbird.errors import UsageError
from tailorbird.method import read_options
from tailorbird.tailor import folder
from tailorbird.tailor import trunk as trunks
from tailorbird.tailor.duet import Duet
from tailorbird.tailor.head import NAMES, manifest_for
from tailorbird.tailor.learn import Settings, Told, heads_for, scorer, train
from tailorbird.tailor.manifest import Manifest
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import hit, interval, ndcg, paired, per_user
from tailorbird.tasks.sequences.ranking import Scorer, full_ranking
from tailorbird.tasks.sequences.split import Split
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.run import divide

SLACK = 2.0  # a bound over the largest number that occurs in heads of the validation stage
SOME = 512  # cases to look for it


def tailor_and_test(
    trunk_folder: Path,
    data: Sequences,
    out: Path,
    settings: Mapping[str, Any] | None = None,
    told: Told = lambda row: None,
) -> dict[str, Any]:
    """Train a DUET generator for a trunk, choose its epoch on validation, test it once beside the trunk, and save it.

    Args:
        trunk_folder: of a trained recommender.
        data: what it was trained on.
        out: a folder that does not exist.
        settings: fields of `Settings`, as values or text.
        told: called after every epoch.

    Returns:
        What was written beside the weights: log, payload, figures of both with intervals, and whether they differ.

    Raises:
        UsageError: other data than the trunk's, unknown settings, or `out` exists.
    """
    chosen = Settings(**read_options(Settings, "duet", settings or {}))
    if out.exists():
        raise UsageError(f"{out} exists", hint="choose another folder with --out, or remove this one")
    trunk, about = trunks.read(trunk_folder)
    split = split_of(about, data)
    if trunk.name not in ("sasrec", "gru4rec"):
        raise UsageError(f"a {trunk.name} has no state that a head can take", hint="train a sasrec or gru4rec")
    torch.manual_seed(chosen.seed)
    maker = Duet(trunk.shape.width)
    log = train(trunk, maker, split, chosen, told)
    manifest = bounded(trunk, maker, split, chosen.window)
    tailored = folder.Tailored(trunk, maker, manifest, chosen.window, about)
    payload = len(tailored.message(split.history(int(split.test.user[0]), int(split.test.at[0]))))
    facts = {"log": log, "payload": payload, "test": figures(trunk, maker, split, chosen.window)}
    folder.save(out, trunk_folder, maker, manifest, chosen, facts)
    return {"trunk": trunk.name, "data": about["data"], "settings": dataclasses.asdict(chosen)} | facts


def split_of(about: Mapping[str, Any], data: Sequences) -> Split:
    """The split a trunk was trained on.

    Raises:
        UsageError: the data are not those.
    """
    if about["data"]["digest"] != data.digest:
        raise UsageError(f"the trunk was trained on other events than these of {data.name!r}", hint="train it again")
    return divide(data, str(about["data"]["split"]))


def bounded(trunk: Recommender, maker: Duet, split: Split, window: int) -> Manifest:
    """A manifest whose bounds are `SLACK` times what heads of validation cases reach."""
    cases = split.validation
    some = np.random.default_rng(0).permutation(len(cases))[:SOME]
    histories = [split.history(int(cases.user[i]), int(cases.at[i])) for i in some]
    heads = heads_for(trunk, maker, histories, window)
    bounds = {name: max(1.0, SLACK * float(heads[name].abs().max())) for name in NAMES}
    return manifest_for(folder.tensors_of(trunk), bounds)


def figures(trunk: Recommender, maker: Duet, split: Split, window: int) -> dict[str, Any]:
    """NDCG@10 and HR@10 on the test, trunk and fresh heads, full ranking; a user counts once."""
    scorers = {"trunk": trunk.score, "duet": scorer(trunk, maker, window)}
    return {"protocol": full_ranking(split, trunk.score).protocol} | compared(scorers, split)


def compared(scorers: Mapping[str, Scorer], split: Split) -> dict[str, Any]:
    """NDCG@10 and HR@10 of two on the test, full ranking, and whether the second differs from the first."""
    ranks = {key: full_ranking(split, score) for key, score in scorers.items()}
    found: dict[str, Any] = {}
    for name, figure in (("ndcg@10", ndcg), ("hr@10", hit)):
        users = {key: per_user(figure(each.ranks, 10), each.cases.user) for key, each in ranks.items()}
        first, second = users
        found[name] = {key: dataclasses.asdict(interval(values)) for key, values in users.items()}
        found[name]["p"] = paired(users[second], users[first])
    return found
