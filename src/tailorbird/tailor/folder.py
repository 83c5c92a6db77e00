"""A tailored model on disk: the trunk's folder, a manifest, and for the cloud what makes heads.

A device needs `recommender.json`, `model.safetensors` (or the folder `trunk` with packed weights), `manifest.json` and,
where there are such, `personal.safetensors` and the detector's `requester.json` and `requester.safetensors`
(`device.load`); `generator.safetensors` and `tailor.json` never leave the cloud.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailorbird.errors import ModelError, UsageError
from tailorbird.files import atomic_folder, read_json, write_json
from tailorbird.formats.safetensors_header import read_header, read_tensor
from tailorbird.formats.safetensors_write import write
from tailorbird.method import read_options
from tailorbird.tailor import ask
from tailorbird.tailor import trunk as trunks
from tailorbird.tailor.device import COMPRESSED, PERSONAL
from tailorbird.tailor.head import manifest_for, unrolled, with_head
from tailorbird.tailor.learn import Settings
from tailorbird.tailor.manifest import Floats, Manifest, digest_of, manifest_of_json, model_digest
from tailorbird.tailor.patch import Patch
from tailorbird.tailor.staleness import TOLERANCE
from tailorbird.tailor.systems import FineTune, System, find
from tailorbird.tailor.unpack import MANIFEST
from tailorbird.tailor.wire import encode
from tailorbird.tasks.sequences.dataset import Ints, check_items
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.model import Recommender

GENERATOR, CONFIG = "generator.safetensors", "tailor.json"
VERSION = 2


@dataclass(frozen=True)
class Tailored:
    """A trunk, and what makes patches for it.

    Attributes:
        trunk: frozen.
        system: of the maker.
        maker: its generator.
        manifest: of trunk and head.
        window: events the generator reads.
        about: what `tailor.json` and `recommender.json` say.
        personal: tensors the trunk carries for its system, as they are stored.
        asking: the detector for its devices.
    """

    trunk: Recommender
    system: System
    maker: nn.Module
    manifest: Manifest
    window: int
    about: Mapping[str, Any]
    personal: Mapping[str, Floats] = field(default_factory=dict)
    asking: ask.Asking | None = None

    @property
    def tensors(self) -> dict[str, Floats]:
        """The trunk's as a device has them, head and prototypes included."""
        return tensors_of(self.trunk) | unrolled(self.personal)

    def patches(self, histories: Sequence[Ints]) -> list[Patch]:
        """The patches of histories."""
        return self.system.patches(self.trunk, self.maker, histories, self.window, self.manifest)

    def message(self, history: Ints) -> bytes:
        """The patch of a history, as it is sent.

        Raises:
            UsageError: an item that is none of the trunk's.
        """
        check_items(history.tolist(), self.trunk.shape.items)
        return encode(self.patches([history])[0], self.tensors, self.manifest, tolerance=TOLERANCE)


def tensors_of(trunk: Recommender) -> dict[str, Floats]:
    """A trunk's tensors as a device has them, head of zeros included."""
    plain = {name: tensor.numpy() for name, tensor in trunk.tensors().items()}
    return with_head(plain, trunk.shape.width)


def save(out: Path, trunk: Path, tailored: Tailored, settings: Settings, facts: Mapping[str, Any]) -> None:
    """Write a tailored model into a new folder; the trunk's files are copied as they are."""
    packed = trunks.compressed(trunk)
    with atomic_folder(out) as aside:
        shutil.copyfile((packed or trunk) / folder.CONFIG, aside / folder.CONFIG)
        if packed is None:
            shutil.copyfile(trunk / folder.TENSORS, aside / folder.TENSORS)
        else:
            shutil.copytree(packed, aside / COMPRESSED)
        if tailored.personal:
            write(aside / PERSONAL, {n: torch.from_numpy(v).contiguous() for n, v in tailored.personal.items()})
        if tailored.asking is not None:
            write(aside / ask.TENSORS, {n: torch.from_numpy(v) for n, v in tailored.asking.tensors.items()})
            write_json(aside / ask.CONFIG, tailored.asking.to_json(tailored.manifest))
        write(aside / GENERATOR, {n: tensor.contiguous() for n, tensor in tailored.maker.state_dict().items()})
        write_json(aside / MANIFEST, tailored.manifest.to_json())
        system = {"method": tailored.system.name, "options": asdict(tailored.system)}
        write_json(aside / CONFIG, {"version": VERSION, **system, "settings": asdict(settings)} | dict(facts))


def read(path: Path) -> Tailored:
    """A tailored model. A trunk that nobody has tailored has heads by gradient steps, see `systems.FineTune`.

    Raises:
        ModelError: missing, damaged, or its parts do not belong together.
        ArtifactError: the same of its detector.
    """
    trunk, about = trunks.read(path)
    model = model_digest(trunk.name, about["shape"])
    if not (path / CONFIG).exists():
        steps, manifest = FineTune(), manifest_for(tensors_of(trunk), model=model)
        return Tailored(trunk, steps, steps.empty(trunk.shape.width), manifest, 0, about)
    words = read_json(path / CONFIG, error=ModelError)
    manifest = manifest_of_json(read_json(path / MANIFEST, error=ModelError))
    try:
        if words["version"] != VERSION:
            raise ValueError(f"version {words['version']!r}")
        kind = find(str(words["method"]))
        system = kind(**read_options(kind, kind.name, words["options"]))
        window = Settings(**read_options(Settings, kind.name, words["settings"])).window
        maker = _maker(system, trunk.shape.width, path / GENERATOR)
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as cause:
        raise ModelError(f"{path} is no tailored model: {cause}", hint="make it: tailorbird tailor train") from cause
    made = Tailored(trunk, system, maker, manifest, window, dict(about) | dict(words), system.personal(maker))
    manifest.check(made.tensors)
    if digest_of(made.tensors) != manifest.trunk or manifest.model not in ("", model):
        raise ModelError(f"{path}: the trunk is not the manifest's", hint="make it: tailorbird tailor train")
    return replace(made, asking=ask.read(path, manifest, trunk.shape.width))


def _maker(system: System, width: int, path: Path) -> nn.Module:
    """What makes heads, from its file; sizes that the file does not have are never made.

    Raises:
        ModelError: the file is damaged.
        ValueError: its tensors are not those of the system.
    """
    header = read_header(path, error=ModelError)
    if system.bounds()["prototypes"] > len(header):  # each has tensors
        raise ValueError("the generator has fewer groups")
    with torch.device("meta"):
        outline = system.empty(width).state_dict()
    if {n: (tuple(t.shape), t.dtype) for n, t in outline.items()} != {n: (i.shape, i.dtype) for n, i in header.items()}:
        raise ValueError("the generator is of another shape")
    maker = system.empty(width)
    maker.load_state_dict({name: read_tensor(info, error=ModelError) for name, info in header.items()})
    torch.manual_seed(0)
    return maker.eval().requires_grad_(False)
