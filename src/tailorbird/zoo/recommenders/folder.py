"""A recommender on disk: what it is, its tensors, the titles of its items; and training that can be gone on with."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailorbird.errors import ModelError, UsageError
from tailorbird.files import atomic_folder, make_folder, read_json, write_json
from tailorbird.formats.safetensors_header import TensorInfo, read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.zoo.recommenders import find
from tailorbird.zoo.recommenders.model import Recommender, shape_of
from tailorbird.zoo.recommenders.settings import Settings
from tailorbird.zoo.recommenders.training import State, begin

CONFIG, TENSORS, PROGRESS = "recommender.json", "model.safetensors", "training.json"
VERSION = 1


def save(folder: Path, model: Recommender, titles: tuple[str, ...], facts: Mapping[str, Any]) -> None:
    """Write a trained recommender into a new folder.

    Args:
        folder: must not exist.
        model: with its weights.
        titles: a text an item, or none.
        facts: how it was trained and what it reached, plain data.
    """
    about = {"version": VERSION, "name": model.name, "shape": model.shape.to_json()}
    with atomic_folder(folder) as aside:
        write(aside / TENSORS, _tensors(model.state_dict()))
        write_json(aside / CONFIG, about | {"titles": list(titles)} | dict(facts))


def read(folder: Path) -> tuple[Recommender, dict[str, Any]]:
    """A recommender and everything its folder says about it.

    Raises:
        ModelError: missing, damaged, or not a recommender.
    """
    about = read_json(folder / CONFIG, limit=2**28, error=ModelError)
    try:
        if about["version"] != VERSION:
            raise ModelError(f"{folder}: version {about['version']!r}", hint="use the tailorbird that wrote it")
        kind = find(str(about["name"]))
        shape, titles = shape_of(about["shape"], kind.sizes), about["titles"]
        if not isinstance(titles, list) or len(titles) not in (0, shape.items):
            raise TypeError("titles")
    except (KeyError, TypeError, UsageError) as cause:
        raise ModelError(f"{folder} is not a recommender: {cause}", hint="train one: tailorbird train") from cause
    with torch.device("meta"):  # sizes that the file does not have are never made
        wanted = kind(shape).state_dict()
    _compare(wanted, read_header(folder / TENSORS, error=ModelError), folder)
    model = kind(shape)
    model.load_state_dict(_read(folder / TENSORS))
    model.check()
    return model.eval(), about


def checkpoint(folder: Path, state: Any, job: Mapping[str, Any]) -> None:
    """Keep a state of training; `job` is everything that decides its result. The tensors of an epoch have its number
    in their name, and the small file that says which epoch counts is written last.

    Args:
        folder: it is made.
        state: a `State`, or what is like one; one with a generator of random numbers, `random`, has that and torch's
            kept too.
        job: plain data.
    """
    make_folder(folder)
    tensors = {f"now.{k}": v for k, v in state.model.state_dict().items()} | {
        f"best.{k}": v for k, v in state.best.items()
    }
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v.reshape(1) if v.dim() == 0 else v for k, v in moments.items()}
    random = getattr(state, "random", None)
    if random is not None:
        tensors["random"] = torch.get_rng_state()
    write(folder / f"epoch-{state.epoch}.safetensors", _tensors(tensors))
    words = {"epoch": state.epoch, "best_ndcg": state.best_ndcg, "log": state.log, "seconds": state.seconds}
    drawn = {} if random is None else {"random": random.bit_generator.state}
    write_json(folder / PROGRESS, {"job": dict(job), **words, **drawn})
    for old in folder.glob("epoch-*.safetensors"):
        if old.name != f"epoch-{state.epoch}.safetensors":
            old.unlink()


def resumed(folder: Path, model: Recommender, settings: Settings, job: Mapping[str, Any]) -> State:
    """The state `checkpoint` kept; a new one where there is none.

    Raises:
        UsageError: it is of another job.
        ModelError: it is damaged.
    """
    state = begin(model, settings)
    restore(folder, state, job)
    return state


def restore(folder: Path, state: Any, job: Mapping[str, Any]) -> None:
    """Put a state where `checkpoint` left it; see `resumed`."""
    if not (folder / PROGRESS).is_file():
        return
    words = read_json(folder / PROGRESS, error=ModelError)
    if words.get("job") != dict(job):
        raise UsageError(f"{folder} is of another training", hint=f"give the same options, or remove {folder}")
    tensors = _read(folder / f"epoch-{words['epoch']}.safetensors")
    _fill(state.model, _under(tensors, "now."), folder)
    state.best = _under(tensors, "best.")
    kept = state.optimiser.state_dict()
    for index in range(len(kept["param_groups"][0]["params"])):
        moments = _under(tensors, f"adam.{index}.")
        if moments:
            kept["state"][index] = {k: v.reshape(()) if k == "step" else v for k, v in moments.items()}
    state.optimiser.load_state_dict(kept)
    state.epoch, state.best_ndcg = words["epoch"], words["best_ndcg"]
    state.log, state.seconds = words["log"], words["seconds"]
    if "random" in words:
        state.random.bit_generator.state = words["random"]
        torch.set_rng_state(tensors["random"])


def forget(folder: Path) -> None:
    """Training is over: remove its states."""
    shutil.rmtree(folder, ignore_errors=True)


def job_of(model: Recommender, settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the result of a training, as plain data."""
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return {
        "name": model.name, "shape": model.shape.to_json(), "settings": dataclasses.asdict(settings), **data, **versions
    }  # fmt: skip


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().contiguous() for key, tensor in state.items()}


def _read(path: Path) -> dict[str, Tensor]:
    return {key: read_tensor(info, error=ModelError) for key, info in read_header(path, error=ModelError).items()}


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    _compare(model.state_dict(), tensors, folder)
    model.load_state_dict(dict(tensors))


def _compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | TensorInfo], folder: Path) -> None:
    """Names, shapes and types; no numbers."""
    mine, other = ({key: (tuple(t.shape), t.dtype) for key, t in each.items()} for each in (wanted, found))
    if mine != other:
        odd = next(key for key in sorted(mine.keys() | other.keys()) if mine.get(key) != other.get(key))
        raise ModelError(f"{folder}: tensor {odd!r} is missing, unknown or of another shape", hint="train it again")
