"""A tailored model on disk: the trunk's folder, a manifest, and for the cloud what makes heads.

A device needs `recommender.json`, `model.safetensors` and `manifest.json` (`device.load`); `generator.safetensors` and
`tailor.json` never leave the cloud.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tailorbird.errors import ModelError, UsageError
from tailorbird.files import atomic_folder, read_json, write_json
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.tailor import trunk as trunks
from tailorbird.tailor.device import COMPRESSED, MANIFEST
from tailorbird.tailor.duet import Duet
from tailorbird.tailor.head import with_head
from tailorbird.tailor.learn import Settings, heads_for
from tailorbird.tailor.manifest import Floats, Manifest, manifest_of_json
from tailorbird.tailor.patch import full
from tailorbird.tailor.staleness import TOLERANCE
from tailorbird.tailor.wire import encode
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.model import Recommender

GENERATOR, CONFIG = "generator.safetensors", "tailor.json"
VERSION = 1


@dataclass(frozen=True)
class Tailored:
    """A trunk, and what makes heads for it.

    Attributes:
        trunk: frozen.
        maker: its generator.
        manifest: of trunk and head.
        window: events the generator reads.
        about: what `tailor.json` and `recommender.json` say.
    """

    trunk: Recommender
    maker: Duet
    manifest: Manifest
    window: int
    about: Mapping[str, Any]

    @property
    def tensors(self) -> dict[str, Floats]:
        """The trunk's, head of zeros included."""
        return tensors_of(self.trunk)

    def make(self, histories: Sequence[Ints]) -> dict[str, Floats]:
        """The heads of histories, (histories, ...) of every tensor."""
        heads = heads_for(self.trunk, self.maker, histories, self.window)
        return {name: tensor.numpy() for name, tensor in heads.items()}

    def message(self, history: Ints) -> bytes:
        """The patch of a history, as it is sent."""
        values = {name: array[0] for name, array in self.make([history]).items()}
        return encode(full(values, self.manifest), self.tensors, self.manifest, tolerance=TOLERANCE)


def tensors_of(trunk: Recommender) -> dict[str, Floats]:
    """A trunk's tensors as a device has them, head of zeros included."""
    plain = {name: tensor.numpy() for name, tensor in trunk.tensors().items()}
    return with_head(plain, trunk.shape.width)


def save(out: Path, trunk: Path, maker: Duet, manifest: Manifest, settings: Settings, facts: Mapping[str, Any]) -> None:
    """Write a tailored model into a new folder; the trunk's files are copied as they are."""
    packed = trunks.compressed(trunk)
    with atomic_folder(out) as aside:
        shutil.copyfile((packed or trunk) / folder.CONFIG, aside / folder.CONFIG)
        if packed is None:
            shutil.copyfile(trunk / folder.TENSORS, aside / folder.TENSORS)
        else:
            shutil.copytree(packed, aside / COMPRESSED)
        write(aside / GENERATOR, {name: tensor.contiguous() for name, tensor in maker.state_dict().items()})
        write_json(aside / MANIFEST, manifest.to_json())
        write_json(aside / CONFIG, {"version": VERSION, "method": "duet", "settings": asdict(settings)} | dict(facts))


def read(path: Path) -> Tailored:
    """A tailored model.

    Raises:
        ModelError: missing, damaged, or its parts do not belong together.
    """
    trunk, about = trunks.read(path)
    words = read_json(path / CONFIG, error=ModelError)
    manifest = manifest_of_json(read_json(path / MANIFEST, error=ModelError))
    maker = Duet(trunk.shape.width)
    try:
        if words["version"] != VERSION or words["method"] != "duet":
            raise ValueError(f"version {words['version']!r}, method {words['method']!r}")
        window = Settings(**words["settings"]).window
        header = read_header(path / GENERATOR, error=ModelError)
        found = {name: read_tensor(info, error=ModelError) for name, info in header.items()}
        wanted = {name: (tuple(t.shape), t.dtype) for name, t in maker.state_dict().items()}
        if wanted != {name: (tuple(t.shape), t.dtype) for name, t in found.items()}:
            raise ValueError("the generator is of another shape")
    except (KeyError, TypeError, ValueError, UsageError) as cause:
        raise ModelError(f"{path} is no tailored model: {cause}", hint="make it: tailorbird tailor train") from cause
    maker.load_state_dict(found)
    torch.manual_seed(0)
    return Tailored(trunk, maker.eval().requires_grad_(False), manifest, window, dict(about) | dict(words))
