"""Mutated exports: everything that was changed after the export is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tailorbird
from tailorbird.artifact.record import NAME, Record
from tailorbird.artifact.verify import verify
from tailorbird.checkpoint.gguf_reader import read_gguf
from tailorbird.errors import ArtifactError, TailorbirdError
from tailorbird.files import json_bytes

Rng = random.Random
NAMES = ["../x", "/etc/passwd", "..", ".", "", "a\0b", "a\\b", "a/b", "x" * 5000, ".hidden", "con:", "é.json"]
NUMBERS: list[Any] = [-1, 0, 2**31, 2**62, 2**63, 10**400, 0.5, 1e308, True, None, "12", [], {}]
JUNK: list[Any] = [*NUMBERS, *NAMES, [[]], {"x": 1}, "0" * 64, list(range(5000))]


@pytest.fixture(scope="module", params=["hf", "gguf"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, base: Path, target: str) -> Path:
    """A valid export; as safetensors in two shards."""
    import tailorbird.artifact.folder as folder

    out = tmp_path_factory.mktemp("export") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "SHARD_BYTES", 120_000)
        tailorbird.export(base, out, target)
    assert target == "gguf" or len(list(out.glob("*.safetensors"))) == 2
    return out


def some_file(folder: Path, rng: Rng, pattern: str = "*") -> Path:
    return rng.choice(sorted(path for path in folder.glob(pattern) if path.name != NAME or pattern == NAME))


def flip(path: Path, rng: Rng, low: int = 0, high: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    at = rng.randrange(low, min(len(data), high or len(data)))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def flip_any(folder: Path, rng: Rng) -> None:
    flip(some_file(folder, rng), rng)


def header_bytes(path: Path) -> int:
    if path.suffix == ".gguf":
        return min(tensor.start for tensor in read_gguf(path).tensors.values())
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def weights(folder: Path, rng: Rng) -> Path:
    return some_file(folder, rng, "*.gguf" if (folder / "model.gguf").exists() else "*.safetensors")


def flip_header(folder: Path, rng: Rng) -> None:
    path = weights(folder, rng)
    flip(path, rng, 0, header_bytes(path))


def flip_data(folder: Path, rng: Rng) -> None:
    path = weights(folder, rng)
    flip(path, rng, header_bytes(path))


def flip_record(folder: Path, rng: Rng) -> None:
    flip(folder / NAME, rng)


def truncate(folder: Path, rng: Rng) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def append(folder: Path, rng: Rng) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    path.write_bytes(path.read_bytes() + rng.choice([b"\0", b" ", b"{}", b"\n"]))


def rename(folder: Path, rng: Rng) -> None:
    path = some_file(folder, rng)
    path.rename(folder / rng.choice(["other.safetensors", f"{path.name}.bak", "pytorch_model.bin"]))


def swap(folder: Path, rng: Rng) -> None:
    first, second = rng.sample(sorted(path for path in folder.iterdir()), 2)
    aside = folder / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def remove(folder: Path, rng: Rng) -> None:
    rng.choice(sorted(folder.iterdir())).unlink()


def add(folder: Path, rng: Rng) -> None:
    (folder / rng.choice(["pytorch_model.bin", "modeling_x.py", "model-00003-of-00002.safetensors"])).write_bytes(b"x")


def link(folder: Path, rng: Rng) -> None:
    path, outside = some_file(folder, rng), folder.parent / "outside"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def to_folder(folder: Path, rng: Rng) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    path.unlink()
    path.mkdir()


def edit_field(folder: Path, rng: Rng) -> None:
    data = json.loads((folder / NAME).read_bytes())
    key = rng.choice(sorted(data))
    value = rng.choice([junk for junk in JUNK if junk != data[key]])
    (folder / NAME).write_bytes(json_bytes(data | {key: value}))


def edit_entry(folder: Path, rng: Rng) -> None:
    """Sizes and digests beyond reason, under a digest of the record that fits."""
    data = json.loads((folder / NAME).read_bytes())
    name = rng.choice(sorted(data["files"]))
    size, digest = data["files"][name]
    data["files"][name] = rng.choice([[rng.choice(NUMBERS), digest], [size, rng.choice(JUNK)], rng.choice(JUNK)])
    refit(folder, data)


def edit_name(folder: Path, rng: Rng) -> None:
    data = json.loads((folder / NAME).read_bytes())
    name = rng.choice(sorted(data["files"]))
    data["files"][rng.choice(NAMES)] = data["files"].pop(name)
    refit(folder, data)


def refit(folder: Path, data: dict[str, Any]) -> None:
    plain = {key: value for key, value in data.items() if key not in ("format", "version", "digest")}
    data["digest"] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    (folder / NAME).write_bytes(json_bytes(data))


MUTATIONS: list[Callable[[Path, Rng], None]] = [
    flip_any, flip_header, flip_data, flip_record, truncate, append, rename, swap, remove, add, link, to_folder,
    edit_field, edit_entry, edit_name,
]  # fmt: skip


def test_mutations_are_refused(base: Path, tmp_path: Path) -> None:
    accepted = []
    for seed in range(240):
        rng, folder = Rng(seed), tmp_path / str(seed) / "export"
        mutate = MUTATIONS[seed % len(MUTATIONS)]
        shutil.copytree(base, folder)
        mutate(folder, rng)
        try:
            verify(folder)
            accepted.append((seed, mutate.__name__))
        except ArtifactError as error:
            assert error.message and error.hint, (seed, mutate.__name__)
        shutil.rmtree(folder.parent)
    assert accepted == []


def test_hostile_files_with_fitting_digests(base: Path, tmp_path: Path) -> None:
    """Whoever can write the record too can make a valid export; what can't be read is refused all the same."""
    refused = 0
    for seed in range(60):
        rng, folder = Rng(seed), tmp_path / str(seed)
        shutil.copytree(base, folder)
        (flip_header if seed % 2 else truncate)(folder, rng)
        data = json.loads((base / NAME).read_bytes())
        for name in data["files"]:
            content = (folder / name).read_bytes()
            data["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
        refit(folder, data)
        try:
            verify(folder)
        except TailorbirdError as error:
            assert isinstance(error, ArtifactError) and error.hint
            refused += 1
        shutil.rmtree(folder)
    assert refused > 20


def test_a_valid_one(base: Path, tmp_path: Path, target: str) -> None:
    found = verify(shutil.copytree(base, tmp_path / "moved"))
    record = Record.read(base)
    assert found.digest == record.digest and found.nbytes == record.nbytes
    assert len(found.checks) == 2 and f"for {target} " in found.checks[1]
    assert (found.bits > 16) == (target == "hf")


def test_neither_artifact_nor_export(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        verify(tmp_path)


def test_the_record_names_its_artifact(base: Path, target: str) -> None:
    record = Record.read(base)
    options = {"hf": {"dtype": "bf16"}, "gguf": {"type": "", "loss": 0.1}}[target]
    assert record.target == target and record.options == options and not record.exact
    assert len(record.artifact) == 64 and record.library.startswith(("safetensors ", "gguf "))
