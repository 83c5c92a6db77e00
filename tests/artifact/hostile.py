"""Mutations of a valid artifact, each opened and verified in one process with bounded memory; run as a script.

    python hostile.py ARTIFACT SCRATCH SEED COUNT

File digests (and, where it is about values, weight digests) are made to fit again, so that the checks behind them
are what is tested. Prints how every mutation ended as JSON.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import lzma
import os
import random
import re
import resource
import shutil
import sys
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tailorbird
from tailorbird.artifact import Artifact
from tailorbird.artifact.manifest import weight_digest
from tailorbird.artifact.verify import verify
from tailorbird.errors import ArtifactError, TailorbirdError

Rng = random.Random
SPARE = 256 * 2**20  # address space a verification may take beyond what the process had
# Made before memory is bounded: its author needs more than its reader may.
HUGE_DICTIONARY = lzma.compress(b"{}", filters=[{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 2**28}])
NAN = float("nan")
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 7, 63, 65, 2**31, 2**53, 2**60, 2**63, 2**64, 10**400, -(2**60), 0.5, 1e308,
    float("inf"), NAN, "", "x", "12", "../x", "/etc/passwd", "a\0b", "\ud800", "é" * 300, "9" * 5000, [], {},
    [[]], [1], [2**60, 2**60], ["x"], {"x": 1}, {"bits": 4}, list(range(5000)), "float16", "none", "embedding",
]  # fmt: skip
NAMES = ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\\b", "\ud800", "x" * 5000, "plan.json/x", "con:", "~"]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_bytes())


def put(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_bytes(json.dumps(value).encode())


def tables(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def some_file(folder: Path, rng: Rng) -> Path:
    return folder / rng.choice(sorted(path.name for path in folder.iterdir() if path.name != "job.json"))


def refit(folder: Path) -> None:
    """Make sizes and digests of the manifest fit the files again."""
    manifest = read(folder, "manifest.json")
    for name in manifest["files"]:
        path = folder / name
        if path.is_file():
            data = path.read_bytes()
            manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    put(folder, "manifest.json", manifest)


def refit_weights(folder: Path) -> None:
    """Make the digests of the weights fit too."""
    artifact, manifest = Artifact.open(folder), read(folder, "manifest.json")
    for part in artifact.plan.specs:
        planes = artifact.planes(part)
        manifest["weights"][part] = weight_digest(planes.meaning())
    put(folder, "manifest.json", manifest)


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path: Path, header: Any, body: bytes, text: bytes | None = None) -> None:
    text = json.dumps(header).encode() if text is None else text
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def flip_header(folder: Path, rng: Rng) -> None:
    path = folder / rng.choice(tables(folder))
    data = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(8) if rng.random() < 0.1 else rng.randrange(length)
        data[at] = rng.randrange(256) if rng.random() < 0.5 else data[at] ^ (1 << rng.randrange(8))
    path.write_bytes(data)
    refit(folder)


def flip_plane(folder: Path, rng: Rng) -> None:
    """One bit of a packed code, with file digests that fit: the digest of the weight must tell."""
    path = folder / rng.choice(tables(folder))
    header, body = split(path)
    names = [name for name in header if ".planes" in name]
    low, high = header[rng.choice(names)]["data_offsets"]
    data = bytearray(body)
    data[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
    join(path, header, bytes(data))
    refit(folder)


def flip_plain(folder: Path, rng: Rng) -> None:
    """One bit anywhere, nothing made to fit."""
    path = some_file(folder, rng)
    while path.name == "manifest.json":
        path = some_file(folder, rng)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def resize(folder: Path, rng: Rng) -> None:
    path = folder / rng.choice(tables(folder))
    data = path.read_bytes()
    cut = rng.choice([0, 1, 7, 8, 9, len(data) - 1, rng.randrange(len(data))])
    path.write_bytes(data[:cut] if rng.random() < 0.6 else data + bytes(rng.choice([1, 8, 4096])))
    refit(folder)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += places(value[key], (*at, key))
    return found


def junk_in(name: str) -> Callable[[Path, Rng], None]:
    def mutate(folder: Path, rng: Rng) -> None:
        value = read(folder, name)
        for _ in range(rng.choice([1, 1, 1, 3])):
            place = rng.choice(places(value))
            if not place:
                value = copy.deepcopy(rng.choice(JUNK)) if rng.random() < 0.3 else value
                continue
            owner = value
            try:
                for key in place[:-1]:
                    owner = owner[key]
                how = rng.random()
                if how < 0.15:
                    del owner[place[-1]]
                elif how < 0.25 and isinstance(owner, dict):
                    owner[rng.choice([*NAMES, "new"])] = owner.pop(place[-1])
                else:
                    owner[place[-1]] = copy.deepcopy(rng.choice(JUNK))
            except (KeyError, IndexError, TypeError):
                continue
        put(folder, name, value)
        if name != "manifest.json":
            refit(folder)

    return mutate


def deep(folder: Path, rng: Rng) -> None:
    name = rng.choice(["plan.json", "config.json", "manifest.json", "tokenizer_config.json"])
    depth = rng.choice([900, 5000, 200_000])
    text = rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth])
    (folder / name).write_text(text)
    if name != "manifest.json":
        refit(folder)


def deep_header(folder: Path, rng: Rng) -> None:
    path = folder / rng.choice(tables(folder))
    _, body = split(path)
    depth = rng.choice([900, 200_000])
    join(path, None, body, b'{"a":' * depth + b"1" + b"}" * depth)
    refit(folder)


def absurd_header(folder: Path, rng: Rng) -> None:
    path = folder / rng.choice(tables(folder))
    header, body = split(path)
    name = rng.choice(sorted(header))
    entry = header[name]
    how = rng.randrange(8)
    if how == 0:
        entry["shape"] = rng.choice(
            [[2**60], [2**31, 2**31], [2**62, 0], [0], [-1], [1] * 40, [2.0], "4", None, [True]]
        )
    elif how == 1:
        entry["dtype"] = rng.choice(["F32", "U8", "I64", "F64", "BF16", "BOOL", "X", "", None, 3, [], "F8_E4M3"])
    elif how == 2:
        low, high = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(
            [[high, low], [low - 1, high - 1], [low, high + 2**60], [2**63, 2**63], [0, high - low], [low], [low, None]]
        )
    elif how == 3:
        entry["shape"] = list(reversed(entry["shape"])) + ([] if rng.random() < 0.5 else [1])
    elif how == 4:
        del header[name]
    elif how == 5:
        header[rng.choice(["new", "../x", "\ud800", "", "__metadata__", "lm_head.weight"])] = dict(entry)
    elif how == 6:
        header[f"{name}.more"] = header.pop(name)
    else:
        join(path, None, body, (json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}").encode())
        return refit(folder)
    join(path, header, body)
    refit(folder)


def absurd_length(folder: Path, rng: Rng) -> None:
    path = folder / rng.choice(tables(folder))
    data = path.read_bytes()
    claim = rng.choice([0, 1, 2, 2**31, 2**32, 2**60, 2**63, 2**64 - 1, len(data), len(data) - 8, len(data) - 9])
    path.write_bytes(claim.to_bytes(8, "little") + data[8:])
    refit(folder)


def extra_tensor(folder: Path, rng: Rng) -> None:
    """One more tensor, well-formed; or one whose name stands in another file."""
    path, other = rng.sample(tables(folder), 2)
    header, body = split(folder / path)
    name = rng.choice(["more", "lm_head.weight", "model.embed_tokens.weight", *split(folder / other)[0]])
    header[name] = {"dtype": "U8", "shape": [16], "data_offsets": [len(body), len(body) + 16]}
    join(folder / path, header, body + bytes(16))
    refit(folder)


def bad_names(folder: Path, rng: Rng) -> None:
    manifest = read(folder, "manifest.json")
    name, entry = rng.choice(sorted(manifest["files"].items()))
    if rng.random() < 0.5:
        del manifest["files"][name]
    manifest["files"][rng.choice([*NAMES, f"../{folder.name}/{name}", f"{name}/", f"./{name}", "report.html"])] = entry
    put(folder, "manifest.json", manifest)


def link(folder: Path, rng: Rng) -> None:
    path = some_file(folder, rng)
    while path.name == "manifest.json":
        path = some_file(folder, rng)
    away = folder.parent / "away"
    away.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(rng.choice([away, Path("/dev/zero"), Path("/nowhere"), path, Path(f"../{away.name}")]))


def odd_file(folder: Path, rng: Rng) -> None:
    path = some_file(folder, rng)
    path.unlink()
    how = rng.randrange(4)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2 and path.name != "manifest.json":
        path.write_bytes(b"")
        refit(folder)


def pickled(folder: Path, rng: Rng) -> None:
    """What torch.save would have made, under the name of a safe file."""
    path = folder / rng.choice([*tables(folder), "plan.json", "config.json", "manifest.json"])
    inner = b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch /tmp/own\x85R."
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", inner)
    path.write_bytes(rng.choice([inner, packed.getvalue()]))
    if path.name != "manifest.json":
        refit(folder)


def bomb(start: bytes) -> bytes:
    """Something that unpacks to 128 MiB, made without ever holding that much."""
    packer = lzma.LZMACompressor(preset=1)
    return b"".join([packer.compress(start), *(packer.compress(b" " * 2**20) for _ in range(128)), packer.flush()])


def tokenizer(folder: Path, rng: Rng) -> None:
    path = folder / "tokenizer.json.xz"
    plain = lzma.decompress(path.read_bytes())
    content = [
        bomb(b""),
        bomb(plain),
        HUGE_DICTIONARY,
        path.read_bytes()[: rng.randrange(path.stat().st_size)],
        rng.randbytes(400),
        b"",
        plain,
        lzma.compress(b"[" * 10**5),
        lzma.compress(b"{}"),
        lzma.compress(plain.replace(b'"BPE"', rng.choice([b'"WordPiece"', b"7", b'{"a":1}']))),
        lzma.compress(rng.randbytes(3000)),
    ]
    path.write_bytes(rng.choice(content))
    refit(folder)


def values(folder: Path, rng: Rng) -> None:
    """Numbers that are none, in packed scales or kept tensors; a column order that is no permutation."""
    path = folder / rng.choice(tables(folder))
    header, body = split(path)
    kinds = (".scales", ".row_scales", ".offsets", ".row_offsets", "norm.weight", ".column_order")
    # Arrays of a term or a class have its number behind their name.
    plain = {name: re.sub(r"_\d+$", "", name) for name in header}
    names = [n for n in header if plain[n].endswith(kinds) and header[n]["dtype"] in ("F16", "BF16", "I32", "F32")]
    name = rng.choice(names)
    low, high = header[name]["data_offsets"]
    data = bytearray(body)
    bad = {
        "F16": [b"\xff\x7f", b"\x00\x7c", b"\x00\xfc"],
        "BF16": [b"\xc0\x7f", b"\x80\x7f", b"\x80\xff"],
        "F32": [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"],
        "I32": [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"],
    }[header[name]["dtype"]]
    value = rng.choice(bad)
    at = low + len(value) * rng.randrange((high - low) // len(value))
    if header[name]["dtype"] == "I32" and rng.random() < 0.5:
        value = bytes(data[low : low + 4]) if at != low else bytes(data[high - 4 : high])
    data[at : at + len(value)] = value
    join(path, header, bytes(data))
    refit(folder)
    if header[name]["dtype"] == "F16":
        refit_weights(folder)


def sizes(folder: Path, rng: Rng) -> None:
    """A plan or a configuration for a model that could never be held, and a manifest that agrees."""
    big = rng.choice([2**20, 2**28, 2**31 - 1, 2**31, 2**60, 10**30])
    plan, config = read(folder, "plan.json"), read(folder, "config.json")
    how = rng.randrange(7)
    entry = rng.choice(plan["parts"])
    if how == 0:
        entry["shape"][rng.randrange(2)] = big
    elif how == 1:
        entry["shape"] = [big, big]
        entry["format"]["group_size"] = big
    elif how == 2:
        entry["format"] = {"bits": "4" * 200_000, "group_size": 1, "offset": "none", "scale": "fp16"}
        entry["shape"][1] = 200_000
    elif how == 3:
        plan["parts"] = plan["parts"] * 200
    elif how == 4:
        config[rng.choice(["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "head_dim"])] = big
    elif how == 5:
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": big}
    else:
        key = rng.choice(["num_attention_heads", "num_key_value_heads", "max_position_embeddings", "num_hidden_layers"])
        config[key] = rng.choice([big, 0, -1, 0.5, "4"])
    put(folder, "plan.json", plan)
    put(folder, "config.json", config)
    refit(folder)


def manifest_sizes(folder: Path, rng: Rng) -> None:
    manifest = read(folder, "manifest.json")
    name = rng.choice(sorted(manifest["files"]))
    manifest["files"][name][0] = rng.choice([0, 1, 2**60, 2**70, -1, True, 1.0, None])
    put(folder, "manifest.json", manifest)


def missing_weight(folder: Path, rng: Rng) -> None:
    manifest = read(folder, "manifest.json")
    name = rng.choice(sorted(manifest["weights"]))
    digest = manifest["weights"].pop(name)
    if rng.random() < 0.5:
        manifest["weights"][name + "x"] = digest
    put(folder, "manifest.json", manifest)


# Share of the mutations, and whether every one of them must be refused.
KINDS: list[tuple[Callable[[Path, Rng], None], int, bool]] = [
    (flip_header, 16, False), (flip_plane, 6, True), (flip_plain, 4, True), (resize, 6, True),
    (junk_in("plan.json"), 14, False), (junk_in("config.json"), 10, False), (junk_in("manifest.json"), 10, False),
    (junk_in("tokenizer_config.json"), 1, False), (deep, 3, False), (deep_header, 1, True), (absurd_header, 12, False),
    (absurd_length, 4, True), (extra_tensor, 3, False), (bad_names, 5, True), (link, 4, True), (odd_file, 4, True),
    (pickled, 3, True), (tokenizer, 5, False), (values, 6, True), (sizes, 8, False), (manifest_sizes, 3, True),
    (missing_weight, 2, True),
]  # fmt: skip


def forget() -> None:
    """Start the peak of the resident bytes anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident() -> int:
    """Peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bound() -> None:
    """No more address space than now and some to spare, where the system can tell."""
    status = Path("/proc/self/statm")
    if status.exists():
        now = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, resource.RLIM_INFINITY))


def end_of(folder: Path) -> str:
    """How opening and verifying ended."""
    try:
        verify(folder)
    except ArtifactError:
        return "refused"
    except TailorbirdError as error:
        return f"refused as {type(error).__name__}"
    except Exception:
        return traceback.format_exc()[-1500:]
    return "passed"


def main() -> None:
    base, scratch, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    assert end_of(base) == "passed", tailorbird.__version__
    bound()
    forget()
    before = resident()
    rng, ends, wrong = random.Random(seed), Counter(), []
    order = [kind for kind in KINDS for _ in range(kind[1])]
    for number in range(count):
        mutate, _, refused = order[number % len(order)]
        folder = scratch / "mutated"
        shutil.copytree(base, folder)
        mutate(folder, rng)
        end = end_of(folder)
        name = mutate.__qualname__.split(".")[0]
        if (end not in ("passed", "refused") and not end.startswith("refused as")) or (refused and end == "passed"):
            wrong.append([number, name, end])
        ends[f"{name}: {end[:40]}"] += 1
        shutil.rmtree(folder)
    print(json.dumps({"ends": ends, "wrong": wrong, "grown": resident() - before}))


if __name__ == "__main__":
    main()
