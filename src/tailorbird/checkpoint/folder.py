"""Opening a folder in the Hugging Face layout, with an error for every way in which it can be incomplete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.errors import ModelError
from tailorbird.files import read_json
from tailorbird.formats.safetensors_header import TensorInfo, read_header

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def open_folder(folder: Path, source: str) -> Checkpoint:
    """Open a folder with config.json and model.safetensors, or an index and its shards.

    Args:
        folder: an existing folder.
        source: the model as the user named it, for messages.

    Raises:
        ModelError: a file is missing or damaged, or a tensor is not where the index says.
    """
    if not any(folder.iterdir()):
        raise ModelError(f"the folder {folder} is empty", hint="download the model's files into it")
    _refuse_other_formats(folder)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(
            f"{config_file} is missing",
            hint="download the model's config.json; it says how the model is built",
        )
    config = read_json(config_file, error=ModelError)
    if not isinstance(config, dict):
        raise ModelError(f"{config_file} is not a JSON object", hint="download the file again")
    single = folder / _SINGLE
    tensors = read_header(single, error=ModelError) if single.is_file() else _indexed(folder)
    if not tensors:
        raise ModelError(f"{folder} holds no tensors", hint="download the model's files again")
    return Checkpoint(folder, source, config, tensors)


def _refuse_other_formats(folder: Path) -> None:
    if any(folder.glob("*.safetensors")) or (folder / _INDEX).is_file():
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds pickled weights only ({', '.join(pickles[:3])}), which are never loaded: "
            "opening a pickle can run any code",
            hint="convert with transformers, on a machine you trust the file on: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
        )
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if ggufs:
        raise ModelError(f"{folder} holds GGUF files", hint=f"name one of them: {folder / ggufs[0]}")


def _indexed(folder: Path) -> dict[str, TensorInfo]:
    index_file = folder / _INDEX
    if not index_file.is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise ModelError(
            f"{folder} has neither {_SINGLE} nor {_INDEX}; it holds {', '.join(found[:8])}",
            hint="download the model's weights in safetensors form",
        )
    shards: dict[str, dict[str, TensorInfo]] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, file in _weight_map(index_file).items():
        if file not in shards:
            shards[file] = _shard(folder, file, name)
        if name not in shards[file]:
            raise ModelError(
                f"{index_file} says that the tensor {name!r} is in {file}, which doesn't hold it",
                hint=f"download {file} and the index again; they belong to different versions",
            )
        tensors[name] = shards[file][name]
    return tensors


def _weight_map(index_file: Path) -> dict[str, str]:
    index: Any = read_json(index_file, error=ModelError)
    mapping = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapping, dict) or not all(isinstance(file, str) for file in mapping.values()):
        raise ModelError(f"{index_file} has no usable weight_map", hint="download the file again")
    for file in set(mapping.values()):
        # Links are allowed (the Hub's cache is made of them), names that lead out of the folder are not.
        if Path(file).name != file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise ModelError(f"{index_file} names the shard {file!r}", hint="do not use this model")
    return mapping


def _shard(folder: Path, file: str, tensor: str) -> dict[str, TensorInfo]:
    path = folder / file
    if not path.is_file():
        raise ModelError(
            f"the shard {path} is missing; the tensor {tensor!r} and others are in it",
            hint=f"download {file} into the folder",
        )
    return read_header(path, error=ModelError)
